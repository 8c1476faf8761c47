"""Inputs of specs: nested, with their rules, and what is filled in."""

from __future__ import annotations

from typing import Any

import pytest

from trunkline.errors import InvalidInputError
from trunkline.pipelines.inputs import leaves
from trunkline.pipelines.spec import effective, input_in_short, limits_of, notes, parse_spec


def pfs(repo: str, glob: str = "/*", **more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": glob, **more}}


def spec(input_: Any, **more: Any) -> dict[str, Any]:
    return {"pipeline": {"name": "p"}, "transform": {"cmd": ["x"]}, "input": input_, **more}


def shown(input_: Any, **more: Any) -> dict[str, Any]:
    return effective(parse_spec(spec(input_, **more), "vision"))


def refusal(input_: Any, **more: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        parse_spec(spec(input_, **more), "default")
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix("pipeline spec: ")


KEYED = pfs("a", "/(*)", joinOn="$1", groupBy="$1")
CRON = {"cron": {"name": "tick", "spec": "@every 10s"}}


@pytest.mark.parametrize(
    ("given", "short"),
    [
        (pfs("a", "*"), "vision/a:/*"),
        ({"cross": [pfs("a"), pfs("b", "/", project="other")]}, "(vision/a:/* ⨯ other/b:/)"),
        ({"union": [pfs("a"), pfs("a", "/x")]}, "(vision/a:/* ∪ vision/a:/x)"),
        ({"join": [KEYED, pfs("b", "/(*)", join_on="$1")]}, "(vision/a:/(*) ⋈ vision/b:/(*))"),
        ({"group": [KEYED, {"join": [KEYED | {}, pfs("b", "/(*)", join_on="$1")]}]}, None),
        ({"group": [KEYED]}, "(Group: vision/a:/(*))"),
        (CRON, "tick:@every 10s"),
        ({"cross": [CRON, {"union": [pfs("a"), pfs("b")]}]}, "(tick:@every 10s ⨯ (vision/a:/* ∪ vision/b:/*))"),
    ],
)  # fmt: skip
def test_inputs_in_short(given: dict[str, Any], short: str | None) -> None:
    if short is None:
        assert "there is another input named 'a'" in refusal(given)
        return
    found = shown(given)
    assert input_in_short(found) == short
    assert effective(parse_spec(found, "elsewhere")) == found, "the effective spec is a spec"


def test_what_a_cron_input_gets() -> None:
    [leaf] = leaves(shown(CRON)["input"])
    assert (leaf.project, leaf.repo, leaf.branch, leaf.glob) == ("vision", "p_tick", "master", "/*")
    assert shown(CRON)["input"]["cron"]["catch_up"] == "all"


def test_a_trigger_makes_a_branch_of_the_pipelines_own() -> None:
    found = shown({"cross": [pfs("a"), pfs("b", branch="dev", trigger={"size": "1MB"})]})
    second = found["input"]["cross"][1]["pfs"]
    assert (second["branch"], second["trigger"]) == ("p-trigger-2", {"branch": "dev", "size": "1MB"})
    renamed = effective(parse_spec({**found, "pipeline": {"name": "q"}}, "vision"))
    assert renamed["input"]["cross"][1]["pfs"]["branch"] == "q-trigger-2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cross": []}, "input.cross: is empty: list the inputs to combine"),
        ({"cross": [{}]}, "input.cross[0]: say what the input is: one of pfs, cross, union, join, group, cron"),
        ({"cross": [pfs("a"), pfs("a")]}, "input.cross[1]: there is another input named 'a': give one of them a name"),
        ({"cross": [{"union": [pfs("a"), pfs("b")]}, pfs("b")]}, "input.cross[1]: there is another input named 'b'"),
        ({"join": [KEYED, pfs("b")]}, "input.join[1]: join_on is missing: for example '$1', with a glob as '/(*).png'"),
        ({"group": [{"cross": [pfs("a"), CRON]}]}, "input.group[0]: group_by is missing"),
        ({"join": [KEYED, {"union": [pfs("b", "/(*)", join_on="$1"), CRON]}]}, "input.join[1]: join_on is missing"),
        ({"join": [KEYED, pfs("b", "/*", join_on="$1")]}, "join_on: $1 is not there: the glob /* has 0 pairs of br"),
        ({"join": [KEYED, pfs("b", "/(*)", join_on="x$2")]}, "$2 is not there: the glob /(*) has one pair of brackets"),
        ({"join": [pfs("a", "/", join_on="x", s3=True)]}, "an s3 input cannot be in a join: it is a whole branch"),
        (pfs("a", "/*", s3=True), "input.pfs.glob: must be '/' for an s3 input"),
        (pfs("a", "/", s3=True, lazy=True), "input.pfs.lazy: says nothing for an s3 input"),
        (pfs("a", lazy=True, empty_files=True), "input.pfs.empty_files: and lazy exclude each other"),
        (pfs("a", "/[x"), "input.pfs.glob: glob '/[x': '[' is never closed, at character 2; for example '/' is all"),
        (pfs("a", ""), "input.pfs.glob: it is empty; for example"),
        (pfs("a b"), "input.pfs.name: 'a b' is not allowed"),
        (pfs("a", name="out"), "input.pfs.name: 'out' is not allowed"),
        (pfs("a", name=".env"), "input.pfs.name: '.env' is not allowed"),
        ({"union": [pfs("a", lazy=True), pfs("a")]}, "input.union[1].pfs.lazy: differs from that of the other input"),
        ({"cron": {"name": "tick", "spec": "every day"}}, "input.cron.spec: schedule 'every day': it has 2 fields, not"),
        ({"cron": {"name": "tick", "spec": "@daily", "start": "soon"}}, "input.cron.start: is no time: write it as 20"),
        ({"cron": {"name": "tick", "spec": "@daily", "catch_up": "some"}}, "input.cron.catch_up: input should be 'all'"),
        ({"cron": {"spec": "@daily"}}, "input.cron.name: missing"),
        ({"union": [CRON, CRON]}, "input.union[1].cron.name: 'tick' is another cron input already"),
        ({"pfs": {"repo": "a", "glob": "/", "joinOnn": "x"}}, "unknown field 'input.pfs.joinOnn'; did you mean 'joinOn'"),
        ({"cross": [{"pfs": {"rpo": "a", "glob": "/"}}]}, "unknown field 'input.cross[0].pfs.rpo'; did you mean 'repo'"),
        ({"crs": [pfs("a")]}, "unknown field 'input.crs'; did you mean 'cross'?"),
        ([pfs("a")], "input: "),
    ],
)  # fmt: skip
def test_refusals_name_the_place(given: Any, message: str) -> None:
    assert message in refusal(given)


def test_all_problems_are_in_one_line() -> None:
    said = refusal(
        {"cross": [pfs("a", "/["), pfs("a"), CRON | {}]}, transform={"cmd": ["x"], "requirements": "r.txt"}
    )
    assert said.count(" | ") == 2 and "transform.requirements" in said and "another input named 'a'" in said


def test_deep_and_wide_inputs_are_refused_and_not_run_into() -> None:
    deep: dict[str, Any] = pfs("a")
    for _ in range(30):
        deep = {"cross": [deep]}
    assert "too large" in refusal(deep)
    for _ in range(5000):
        deep = {"cross": [deep]}
    assert "nested more than 100 deep" in refusal(deep)
    assert "too large" in refusal({"union": [pfs(f"r{number}") for number in range(101)]})


def test_limits() -> None:
    found = shown(
        pfs("a"), resource_limits={"memory": "1.5Gi", "cpu": "500m", "disk": "2G", "gpu": {"number": 1}}
    )
    assert limits_of(found) == {
        "memory_bytes": 1610612736, "cpus": 0.5, "disk_bytes": 2_000_000_000, "network": True,
    }  # fmt: skip
    assert notes(found) == ("resource_limits.gpu is ignored: GPUs are not shared out on one machine",)
    nothing = {"memory_bytes": None, "cpus": None, "disk_bytes": None, "network": False}
    assert limits_of(shown(pfs("a"), transform={"cmd": ["x"], "network": False})) == nothing


EVERYTHING = {
    "pipeline": {"name": "p", "project": {"name": "vision"}}, "description": "all of it",
    "transform": {
        "image": "trunkline", "cmd": ["x"], "stdin": ["y"], "err_cmd": ["z"], "err_stdin": ["e"], "env": {"A": "1"},
        "secrets": [{"name": "s", "key": "k", "env_var": "S"}], "image_pull_secrets": ["x"], "accept_return_code": [3],
        "user": "nobody", "working_dir": "/tmp", "debug": True, "dockerfile": "Dockerfile", "memory_volume": True,
        "datum_batching": True, "code": "src", "requirements": "requirements.txt", "network": False,
    },
    "input": {"pfs": {
        "name": "in", "project": "vision", "repo": "a", "repo_type": "user", "branch": "master", "glob": "/(*)",
        "join_on": "$1", "outer_join": True, "group_by": "$1", "lazy": True, "reference": True,
        "trigger": {"size": "1MB", "commits": 3, "all": True}, "propagation_spec": {"never": True},
    }},
    "parallelism_spec": {"constant": 3}, "autoscaling": True, "datum_set_spec": {"number": 0},
    "datum_tries": 1, "datum_timeout": "1m", "job_timeout": "1h", "reprocess_spec": "every_job", "salt": "s",
    "on_failure": "quarantine", "supersede": True, "output_branch": "out", "egress": {"URL": "s3://bucket/x"},
    "resource_requests": {"memory": "1G"}, "resource_limits": {"cpu": 1}, "metadata": {"labels": {"a": "b"}},
    "sidecar_resource_requests": {"cpu": 0.1}, "sidecar_resource_limits": {"cpu": 0.1},
    "scheduling_spec": {"node_selector": {"a": "b"}}, "tolerations": [{"key": "a"}], "pod_spec": "{}",
    "pod_patch": "[]", "spec_commit": {"id": "x"}, "update": True, "reprocess": True, "dry_run": True,
    "determined": {"workspaces": ["w"]}, "maximum_expected_uptime": "1h", "tf_job": None, "service": None, "spout": None,
}  # fmt: skip


def test_every_field_is_read_kept_and_read_again() -> None:
    found = effective(parse_spec(EVERYTHING, "default"))
    assert effective(parse_spec(found, "default")) == found
    passing = {"spec_commit", "update", "reprocess", "dry_run", "salt"}
    said_nothing = {"tf_job", "service", "spout"}
    assert set(EVERYTHING) - passing - said_nothing == set(found) - {"s3_out"}
    transform: Any = EVERYTHING["transform"]
    assert set(transform) == set(found["transform"])
    assert (found["job_timeout"], found["datum_timeout"], found["egress"]) == (
        3600.0,
        60.0,
        {"url": "s3://bucket/x"},
    )
    assert [note.partition(" ")[0] for note in notes(found)] == [
        "resource_requests", "sidecar_resource_requests", "sidecar_resource_limits", "scheduling_spec", "tolerations",
        "pod_spec", "pod_patch", "determined", "maximum_expected_uptime", "transform.image_pull_secrets",
        "transform.dockerfile", "transform.memory_volume",
    ]  # fmt: skip


def test_defaults() -> None:
    found = shown(pfs("a"))
    for field, value in {
        "datum_tries": 3, "output_branch": "master", "parallelism_spec": {"constant": 1}, "autoscaling": False,
        "reprocess_spec": "until_success", "on_failure": "fail", "supersede": False, "s3_out": False,
    }.items():  # fmt: skip
        assert found[field] == value
    assert {"job_timeout", "datum_timeout", "egress", "service", "spout"}.isdisjoint(found)


def test_services_and_spouts() -> None:
    found = shown(pfs("a"), service={"internalPort": 8080, "externalPort": "30080"})
    assert found["service"] == {"internal_port": 8080, "external_port": 30080, "ip": "", "type": "NodePort"}
    spout = shown(None, spout={"service": {"internal_port": 80}})
    assert spout["spout"]["service"]["internal_port"] == 80 and spout["input"] == {}
    assert leaves(spout.get("input", {})) == [] and input_in_short(spout) == "none"
    assert shown(None, spout={})["spout"] == {}
    assert "a service is one process" in refusal(
        pfs("a"), service={"internal_port": 1}, parallelism_spec={"constant": 2}
    )
    assert "input: missing" in refusal({}, service={"internal_port": 1})
