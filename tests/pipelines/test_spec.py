"""Specs: what is read, what is refused, and how it is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import InvalidInputError
from trunkline.pipelines.spec import effective, input_in_short, notes, parse_spec, with_defaults

GUIDE = {
    "pipeline": {"name": "dogs-and-cats-model"},
    "description": "Trains on new data.",
    "input": {"pfs": {"name": "data", "repo": "dogs-and-cats", "branch": "master", "glob": "/"}},
    "transform": {
        "cmd": ["/bin/sh"], "stdin": ["python train.py"], "image": "trunkline",
        "secrets": [{"name": "pipeline-secret", "key": "det_master", "env_var": "DET_MASTER"}],
    },
    "parallelism_spec": {"constant": 1}, "autoscaling": False,
    "pod_patch": "[{\"op\": \"add\"}]", "resource_requests": {"memory": "1G"},
}  # fmt: skip


def with_field(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(GUIDE))
    at = document
    *parents, last = path.split(".")
    for part in parents:
        at = at.setdefault(part, {})
    at[last] = value
    return document


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(InvalidInputError) as caught:
        parse_spec(document, "default")
    return str(caught.value)


def test_the_guides_own_spec_is_read() -> None:
    spec = parse_spec(GUIDE, "default")
    shown = effective(spec)
    assert shown["input"]["pfs"] == {
        "name": "data", "project": "default", "repo": "dogs-and-cats", "repo_type": "user", "branch": "master",
        "glob": "/",
    }  # fmt: skip
    assert (shown["datum_tries"], shown["output_branch"]) == (3, "master")
    assert input_in_short(shown) == "default/dogs-and-cats:/"
    assert [note.split(" ")[0] for note in notes(shown)] == ["resource_requests", "pod_patch"]


def test_camel_case_is_the_same() -> None:
    document = {
        "pipeline": {"name": "p", "project": {"name": "other"}},
        "input": {"pfs": {"repo": "r", "glob": "/*", "repoType": "user"}},
        "transform": {"cmd": ["a"], "acceptReturnCode": [1], "errCmd": ["b"], "workingDir": "/x", "env": {"myVar": 1}},
        "parallelismSpec": {"constant": "4"}, "datumTimeout": "1m30s", "outputBranch": "o", "$schema": "x",
    }  # fmt: skip
    shown = effective(parse_spec(document, "default"))
    assert shown["pipeline"] == {"name": "p", "project": "other"}
    assert shown["input"]["pfs"]["name"] == "r" and shown["input"]["pfs"]["project"] == "other"
    transform = shown["transform"]
    assert (transform["accept_return_code"], transform["err_cmd"], transform["working_dir"]) == (
        [1],
        ["b"],
        "/x",
    )
    assert transform["env"] == {"myVar": "1"}
    assert shown["parallelism_spec"] == {"constant": 4}
    assert shown["datum_timeout"] == 90.0


def test_defaults_hold_where_a_spec_says_nothing() -> None:
    said = {
        "pipeline": {"name": "p"}, "input": {"pfs": {"repo": "r", "glob": "/"}}, "datumTries": 2,
        "transform": {"cmd": ["x"], "env": {"A": "spec"}}, "resource_limits": {"memory": "1G"},
    }  # fmt: skip
    of_project = {"resourceLimits": {"memory": "2G", "cpu": 1}, "transform": {"env": {"datumTries": "x"}}}
    of_all = {"datum_tries": 9, "job_timeout": "1h", "resource_limits": {"cpu": 2, "disk": "3G"},
              "transform": {"cmd": ["y", "z"], "env": {"A": "default", "B": "default"}}}  # fmt: skip
    shown = effective(parse_spec(with_defaults(said, of_project, of_all), "default"))
    assert (shown["datum_tries"], shown["job_timeout"]) == (2, 3600.0)
    assert shown["resource_limits"] == {"memory": "1G", "cpu": 1, "disk": "3G"}
    assert shown["transform"]["cmd"] == ["x"]
    assert shown["transform"]["env"] == {"A": "spec", "B": "default", "datumTries": "x"}
    assert with_defaults(said) is said


def test_the_effective_spec_is_a_spec() -> None:
    shown = effective(parse_spec(GUIDE, "default"))
    assert effective(parse_spec(shown, "default")) == shown


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("transfrom", {}, "unknown field 'transfrom'; did you mean 'transform'?"),
        ("transform.stdn", [], "unknown field 'transform.stdn'; did you mean 'stdin'?"),
        ("transform.errStdinn", [], "unknown field 'transform.errStdinn'; did you mean 'errStdin'?"),
        ("input.pfs.globb", "/", "unknown field 'input.pfs.globb'; did you mean 'glob'?"),
        ("transform.secrets", [{"name": "s", "envvar": "X"}],
         "unknown field 'transform.secrets[0].envvar'; did you mean 'env_var'?"),
        ("input.cron", {"name": "tick", "spec": "@daily"},
         "input: pfs and cron cannot stand beside each other: put them into a cross or a union"),
        ("input.git", {"url": "x"}, "not supported: input.git, which Pachyderm has dropped, too: put what is cloned"),
        ("input.git", {}, "not supported: input.git, which"),
        ("input.cross", [{"git": {}}], "not supported: input.cross[0].git, which"),
        ("input.pfs.commit", "1035715e796f45caae7a1d3ffd1f93ca", "not supported: input.pfs.commit"),
        ("tf_job", {"tf_job": "x"}, "not supported: tf_job, which Pachyderm has dropped, too: train in transform.cmd"),
        ("tf_job", {}, "not supported: tf_job, which"),
        ("tfJob", {}, "not supported: tfJob, which"),
        ("transform.user", "a b", "transform.user: 'a b' is no user: write a name or a number"),
        ("transform.user", "-x", "transform.user: '-x' is no user"),
        ("transform.user", "ann:", "transform.user: 'ann:' is no user"),
        ("transform.user", "ann\n", "transform.user: 'ann\\n' is no user"),
        ("transform.user", "a" * 101, "is no user"),
        ("transform.user", ["ann"], 'transform.user: must be text: put it in quotes'),
        ("transform.working_dir", "src", "transform.working_dir: 'src' is not absolute: begin it with '/'"),
        ("transform.working_dir", "/a/../b", "transform.working_dir: '/a/../b' has '..' in it"),
        ("transform.working_dir", "/a\nb", "transform.working_dir: '/a\\nb' has a control character in it"),
        ("transform.working_dir", "/a\0", "has a control character in it"),
        ("transform.working_dir", "/" * 4001, "transform.working_dir: is longer than 4000 characters"),
        ("egress", {"sql_database": {"url": "sqlite:///x"}, "URL": "s3://x"}, "egress: name one place: URL, object_st"),
        ("egress", {"object_storage": {}}, "egress.object_storage.url: missing"),
        ("transform.cmd", [" "], "transform.cmd: its first word, the program, is empty"),
        ("transform.env", {"A=B": "x"}, "transform.env: 'A=B' is not a name for an environment variable"),
        ("transform.requirements", "requirements.txt", "is a file in the folder of transform.code, which is missing"),
        ("resource_limits.memory", "lots", "resource_limits.memory: is no quantity"),
        ("resource_limits.cpu", -1, "resource_limits.cpu: is no quantity"),
        ("job_timeout", "0s", "job_timeout: must be longer than nothing"),
        ("on_failure", "ignore", "on_failure: input should be 'fail' or 'quarantine'"),
        ("service.internal_port", 70000, "service.internal_port: input should be less than or equal to 65535"),
        ("spout", {}, "input: a spout has none: it commits by itself"),
        ("input.pfs.trigger", {"size": "much"}, "input.pfs.trigger.size: size 'much' is not understood"),
        ("input.pfs.trigger", {"cron_spec": "@daily", "commits": 2}, "input.pfs.trigger.cron_spec: stands alone"),
        ("input.pfs.join_on", "$1", "input.pfs.join_on: $1 is not there: the glob / has 0 pairs of brackets"),
        ("input.pfs.branch", "a b", "input.pfs.branch: 'a b' is not allowed"),
        ("transform.cmd", [], "transform.cmd: is empty"),
        ("transform.cmd", "python x", 'transform.cmd: must be a list, as ["sh", "-c", "'),
        ("transform.cmd", ["sleep", 5], 'transform.cmd[1]: must be text: put it in quotes, as "5"'),
        ("pipeline", "edges", 'pipeline: must be an object, as {"name": '),
        ("datum_tries", "many", "datum_tries: must be a whole number"),
        ("autoscaling", "maybe", "autoscaling: must be true or false"),
        ("datum_timeout", "soon", "datum_timeout: is no duration"),
        ("parallelism_spec.constant", 0, "parallelism_spec.constant: "),
        ("input.pfs.name", "out", "'out' is not allowed"),
        ("transform.secrets", [{"name": "s", "key": "k"}], "secrets[0]: give either env_var or mount_path"),
        ("transform.secrets", [{"name": "s", "env_var": "X"}], "secrets[0]: key is missing"),
        ("transform.code", "../elsewhere", "must be beside the spec file"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(path: str, value: Any, message: str) -> None:
    assert message in refusal(with_field(path, value))


def test_what_is_missing_is_named() -> None:
    said = refusal({"pipeline": {"name": "p"}, "input": {"pfs": {"repo": "r"}}})
    assert said == "pipeline spec: transform: missing | input.pfs.glob: missing"
    said_nothing: list[dict[str, Any]] = [{}, {"input": {}}, {"input": None}]
    for nothing in said_nothing:
        said = refusal({"pipeline": {"name": "p"}, "transform": {"cmd": ["x"]}, **nothing})
        assert said == "pipeline spec: input: missing (for example input.pfs with its repo and glob)"


def test_a_mistyped_name_is_one_problem_and_not_two() -> None:
    said = refusal({
        "pipeline": {"name": "p"}, "transfrom": {"cmd": ["x"]}, "input": {"pfs": {"repo": "r", "golb": "/"}},
        "parallelismSpec": {"constnt": 3},
    })  # fmt: skip
    assert said == (
        "pipeline spec: unknown field 'input.pfs.golb'; did you mean 'glob'? | unknown field 'parallelismSpec.constnt'; "
        "did you mean 'constant'? | unknown field 'transfrom'; did you mean 'transform'?"
    )


@pytest.mark.parametrize("field", ["egress", "service", "spout", "s3_out", "job_timeout"])
def test_a_field_that_says_nothing_is_no_trouble(field: str) -> None:
    parse_spec(with_field(field, None), "default")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["pipeline", "input", "pfs", "transform", "cmd", "name", "env"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_nonsense_is_refused_in_our_own_words(document: Any) -> None:
    try:
        parse_spec(document, "default")
    except InvalidInputError as error:
        assert error.kind == "bad_spec"


@pytest.mark.parametrize(
    ("transform", "shown"),
    [
        ({"user": 1000}, {"user": "1000"}),
        ({"user": "nobody:nogroup"}, {"user": "nobody:nogroup"}),
        ({"working_dir": "/pfs/out"}, {"working_dir": "/pfs/out"}),
        ({"working_dir": "."}, {"working_dir": "."}),
        ({"working_dir": "src", "code": "."}, {"working_dir": "src"}),
    ],
)
def test_users_and_folders_that_are_taken(transform: dict[str, Any], shown: dict[str, Any]) -> None:
    document = with_field("transform", GUIDE["transform"] | transform)  # type: ignore[operator]
    assert effective(parse_spec(document, "default"))["transform"].items() >= shown.items()
