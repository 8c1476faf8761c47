"""The commands about pipelines, on a running server: files of many forms, previews, versions, editing, doing again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Shell, run_here

pytestmark = pytest.mark.slow


def spec(name: str, input_: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "pipeline": {"name": name},
        "input": input_ or {"pfs": {"repo": "shapes", "glob": "/*"}},
        # Of this test alone: results are shared by whoever computes the same, and so is the server.
        "transform": {
            "cmd": ["true"],
            "env": {"TEST": os.environ.get("PYTEST_CURRENT_TEST", "none").split()[0]},
        },
        **more,
    }


@pytest.fixture
def shapes(shell: Shell, tmp_path: Path) -> Iterator[Path]:
    """A repo with two files, and a folder for specs; the pipelines go afterwards, the last ones first."""
    shell("create repo shapes")
    shell("put file shapes@master:/a -f -", stdin=b"1")
    shell("put file shapes@master:/b -f -", stdin=b"2")
    yield tmp_path
    for pipeline in json.loads(shell("list pipelines -o json").out)[::-1]:
        shell(f"delete pipeline {pipeline['name']} --force")
    shell("delete repo shapes --force")


def write(folder: Path, name: str, text: Any) -> Path:
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def names(shell: Shell) -> list[str]:
    return [one["name"] for one in json.loads(shell("list pipelines -o json").out)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", json.dumps([spec("one"), spec("two")])),
        ("joined.json", json.dumps(spec("one"), indent="\t") + json.dumps(spec("two"))),
        ("documents.yaml", "---\n" + yaml.safe_dump(spec("one")) + "---\n" + yaml.safe_dump(spec("two")) + "---\n"),
        ("two.jsonnet", f"[{json.dumps(spec('one'))}, {json.dumps(spec('two'))}]"),
    ],
)  # fmt: skip
def test_many_specs_in_one_file(shell: Shell, shapes: Path, name: str, text: str) -> None:
    if name.endswith(".jsonnet"):
        pytest.importorskip("_jsonnet")
    shell(f"create pipeline -f {write(shapes, name, text)}")
    assert names(shell) == ["one", "two"]


def test_jsonnet_takes_arguments(shell: Shell, shapes: Path) -> None:
    pytest.importorskip("_jsonnet")
    text = """function(name, glob='/*') {
        pipeline: { name: name }, input: { pfs: { repo: 'shapes', glob: glob } }, transform: { cmd: ['true'] },
    }"""
    file = write(shapes, "one.template", text)
    shell(f"create pipeline --jsonnet {file} --arg name=made --arg glob=/")
    assert json.loads(shell("inspect pipeline made -o json").out)["input"] == "default/shapes:/"
    said = shell(f"create pipeline --jsonnet {file}", code=2).err
    assert said.count("\n") == 1 and "cannot be evaluated" in said and "name" in said
    assert "write KEY=VALUE" in shell(f"create pipeline --jsonnet {file} --arg name", code=2).err
    plain = write(shapes, "plain.json", spec("plain"))
    assert "takes no --arg" in shell(f"create pipeline -f {plain} --arg a=b", code=2).err
    assert "name one spec file" in shell("create pipeline", code=2).err


def test_jsonnet_without_the_extra_says_what_to_install(
    shell: Shell, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "_jsonnet", None)
    said = shell(f"create pipeline -f {write(shapes, 'a.jsonnet', '{}')}", code=2).err
    assert "pip install 'trunkline[jsonnet]'" in said


def test_a_spec_from_stdin(shell: Shell, shapes: Path) -> None:
    shell("create pipeline -f -", stdin=json.dumps(spec("piped")).encode())
    assert names(shell) == ["piped"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no pipeline spec"),
        ("just text", "holds no pipeline spec"),
        ("[1, 2]", "holds no pipeline spec"),
        ('{"pipeline": ', "neither JSON nor YAML"),
        ("a: [1\nb: 2", "neither JSON nor YAML"),
        ('{"pipeline": {"name": "a", "name": "b"}}', "the key 'name' is there twice"),
        ("pipeline:\n  name: a\n  name: b", "the key 'name' is there twice, again in line 3"),
        ("1: a\n'1': b", "the key '1' is there twice"),
        ("pipeline: &a\n  x: *a", "nested too deeply|neither JSON nor YAML"),
        ("a: 2024-13-45", "neither JSON nor YAML: month must be in"),
        ("{" * 3000, "neither JSON nor YAML|nested too deeply"),
        ("[" * 100_000, "nested too deeply|neither JSON nor YAML"),
    ],
)
def test_what_is_no_spec_file_is_one_line(shell: Shell, tmp_path: Path, text: str, said: str) -> None:
    done = shell(f"create pipeline -f {write(tmp_path, 'bad.json', text)}", code=2)
    assert len(done.err.splitlines()) == 1 and any(one in done.err for one in said.split("|"))


def test_a_bad_spec_from_stdin_says_so(shell: Shell) -> None:
    assert "stdin holds no pipeline spec" in shell("create pipeline -f -", code=2, stdin=b"").err


def test_a_job_that_knew_all_results_says_so(shell: Shell, shapes: Path) -> None:
    for name in ("first", "second"):
        shell(f"create pipeline -f {write(shapes, f'{name}.json', spec(name))}")
        shell(f"wait commit {name}@master")
    assert "succeeded: all results were known" in shell("list jobs -p second").out


def test_a_dry_run_shows_what_it_would_do_and_does_nothing(shell: Shell, shapes: Path) -> None:
    file = write(shapes, "p.json", spec("p"))
    done = shell(f"create pipeline -f {file} --dry-run")
    assert "pipeline default/p would be created" in done.err and "2 datums: 2 to do (2 new)" in done.err
    assert yaml.safe_load(done.out.partition("\n\n")[0])["datum_tries"] == 3
    assert "shapes:/a" in done.out and "shapes:/b" in done.out
    assert names(shell) == []
    shell("create pipeline -f -", stdin=json.dumps(spec("q", dryRun=True)).encode())
    assert names(shell) == []
    assert shell(f"list datums -f {file}").out.count("shapes:/") == 2
    structured = json.loads(shell(f"create pipeline -f {file} --dry-run -o json").out)
    assert (structured["is_new"], structured["work"]["to_do"], len(structured["datums"])) == (True, 2, 2)
    bad = write(shapes, "bad.json", spec("p", {"pfs": {"repo": "nosuch", "glob": "/"}}))
    assert (
        "input repo default/nosuch does not exist" in shell(f"create pipeline -f {bad} --dry-run", code=4).err
    )


def test_a_dry_run_of_an_update_says_why(shell: Shell, shapes: Path) -> None:
    file = write(shapes, "p.json", spec("p"))
    shell(f"create pipeline -f {file}")
    shell("wait commit p@master")
    assert "exists already" in shell(f"create pipeline -f {file} --dry-run", code=5).err
    same = shell(f"update pipeline -f {file} --dry-run").err
    assert "would be updated to version 2" in same and "2 datums: 0 to do, 2 unchanged" in same
    again = shell(f"update pipeline -f {file} --dry-run --reprocess")
    assert "2 to do (2 forced)" in again.err
    changed = spec("p")
    changed["transform"]["cmd"] = ["echo", "x"]
    new = shell(f"update pipeline -f {write(shapes, 'p.json', changed)} --dry-run")
    assert "(transform.cmd)" in new.err and "2 to do (2 code)" in new.err and "code: transform.cmd" in new.out
    assert json.loads(shell("inspect pipeline p -o json").out)["version"] == 1


def test_versions_and_their_history(shell: Shell, shapes: Path) -> None:
    shell(f"create pipeline -f {write(shapes, 'p.json', spec('p', description='first'))}")
    shell(f"update pipeline -f {write(shapes, 'p.json', spec('p', description='second'))}")
    listed = json.loads(shell("list pipeline p --history -o json").out)
    assert [(one["version"], one["description"]) for one in listed] == [(2, "second"), (1, "first")]
    assert shell("list pipelines --history").out.count("default p ") == 2
    assert shell("list pipeline p").out.count("default p ") == 1
    assert json.loads(shell("inspect pipeline p --version 1 -o json").out)["description"] == "first"
    assert "has no version 7: it has 1 to 2" in shell("inspect pipeline p --version 7", code=4).err
    assert "there is no pipeline default/q" in shell("list pipeline q --history", code=4).err


def editor(folder: Path, *edits: str) -> str:
    """An editor that replaces text in its file: one edit at each call, the last one for ever."""
    script = folder / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        f"edits = {list(edits)!r}\n"
        f"count = pathlib.Path({str(folder / 'count')!r})\n"
        "number = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(number + 1))\n"
        "old, new = edits[min(number, len(edits) - 1)].split('=>')\n"
        "path = pathlib.Path(sys.argv[1])\n"
        f"pathlib.Path({str(folder / 'seen')!r} + str(number)).write_text(path.read_text())\n"
        "path.write_text(path.read_text().replace(old, new))\n"
    )
    return f"{sys.executable} {script}"


def edit(shell: Shell, program: str, *, code: int = 0) -> str:
    done = run_here("edit pipeline p", {**shell.server.env, "EDITOR": program})
    assert done.code == code, str(done)
    return done.err


def test_editing_reopens_until_it_is_right(shell: Shell, shapes: Path) -> None:
    shell(f"create pipeline -f {write(shapes, 'p.json', spec('p', description='first'))}")
    assert "updated to version 2" in edit(
        shell, editor(shapes, "datum_tries: 3=>datum_tries: many", "many=>5")
    )
    assert json.loads(shell("inspect pipeline p -o json").out)["spec"]["datum_tries"] == 5
    assert (shapes / "seen1").read_text().startswith("# pipeline spec: datum_tries: ")
    assert "is as it was" in edit(shell, editor(shapes, "no such text=>x"))
    for wrong, said in [
        ("datum_tries: 5=>datum_tries: 0", "datum_tries: "),
        ("name: p=>name: q", "the name of a pipeline cannot be edited: it is 'p'"),
        ("cmd:=>cmd: [", "neither JSON nor YAML"),
    ]:
        (shapes / "count").unlink(missing_ok=True)
        err = edit(shell, editor(shapes, wrong, "no such text=>x"), code=2)
        assert said in err and len(err.splitlines()) == 1, "left as it was: the error is what is said"
    assert "cannot be started" in edit(shell, "/nonexistent/editor", code=2)
    assert "ended with code 1" in edit(shell, "false", code=2)
    assert json.loads(shell("inspect pipeline p -o json").out)["version"] == 2


def test_editing_keeps_the_code_folder(shell: Shell, shapes: Path) -> None:
    (shapes / "src").mkdir()
    (shapes / "src" / "run.sh").write_text("true")
    with_code = spec("p", transform={"cmd": ["sh", "run.sh"], "code": "src"})
    shell(f"create pipeline -f {write(shapes, 'p.json', with_code)}")
    before = json.loads(shell("inspect pipeline p -o json").out)
    edit(shell, editor(shapes, "description: ''=>description: edited"))
    after = json.loads(shell("inspect pipeline p -o json").out)
    assert (after["description"], after["code_root"]) == ("edited", before["code_root"])


def test_rerun_and_delete_of_jobs(shell: Shell, shapes: Path) -> None:
    shell(f"create pipeline -f {write(shapes, 'p.json', spec('p'))}")
    shell("wait commit p@master")
    made = json.loads(shell("rerun pipeline p -o json").out)
    assert shell(f"wait job p@{made['id']}")
    jobs = json.loads(shell("list jobs -p p -o json").out)
    assert jobs[0]["id"] == made["id"] and len(jobs) == 2
    assert "has ended already" in shell(f"restart datum p@{made['id']} /a", code=5).err
    shell(f"delete job p@{made['id']}")
    assert [job["id"] for job in json.loads(shell("list jobs -p p -o json").out)] == [jobs[1]["id"]]
    assert "there is no job" in shell(f"delete job p@{made['id']}", code=4).err
    shell("put file shapes@master:/c -f -", stdin=b"3")
    shell("wait commit p@master")
    newest = json.loads(shell("list jobs -p p -o json").out)[0]
    assert (newest["status"], newest["total"], newest["processed"]) == ("succeeded", 3, 1)


def test_cron_at_hand(shell: Shell, shapes: Path) -> None:
    cron = {"cron": {"name": "tick", "spec": "@never"}}
    shell(f"create pipeline -f {write(shapes, 'p.json', spec('report', cron))}")
    assert "default/report_tick@" in shell("run cron report").err
    assert shell("list files report_tick@master").out.count("Z\n") == 1
    assert "has no cron input tock: it has tick" in shell("run cron report --input tock", code=2).err
    assert "tick:@never" in shell("list pipeline report").out


def test_delete_with_keep_repo(shell: Shell, shapes: Path) -> None:
    shell(f"create pipeline -f {write(shapes, 'p.json', spec('p'))}")
    shell("wait commit p@master")
    shell("delete pipeline p --keep-repo")
    assert "default p " in shell("list repos").out
    shell("delete repo p")


def test_drawing(shell: Shell, shapes: Path) -> None:
    both = {"cross": [{"pfs": {"repo": "shapes", "glob": "/"}}, {"pfs": {"repo": "edges", "glob": "/"}}]}
    specs = [spec("edges"), spec("montage", both)]
    shell(f"create pipeline -f {write(shapes, 'p.json', specs)}")
    assert shell("draw pipeline").out == (
        "default/shapes\n├─ default/edges\n│  └─ default/montage\n└─ default/montage\n"
    )
    assert shell("draw pipeline edges").out == "default/edges\n└─ default/montage\n"


def test_a_file_in_any_order_is_created_whole_or_not_at_all(shell: Shell, shapes: Path) -> None:
    def reads(name: str, repo: str) -> dict[str, Any]:
        return spec(name, {"pfs": {"repo": repo, "glob": "/"}})

    chain = [reads("three", "two"), reads("two", "one"), reads("one", "shapes")]
    file = write(shapes, "chain.json", chain)
    said = shell(f"create pipeline -f {file} --dry-run").err
    assert [line.split()[1] for line in said.splitlines() if "would be created" in line] == [
        "default/three",
        "default/two",
        "default/one",
    ]
    assert names(shell) == []
    broken = write(shapes, "broken.json", [*chain, reads("four", "nosuch")])
    assert (
        "pipeline four: input repo default/nosuch does not exist"
        in shell(f"create pipeline -f {broken}", code=4).err
    )
    ring = write(shapes, "ring.yaml", yaml.safe_dump_all([reads("x", "y"), reads("y", "z"), reads("z", "x")]))
    assert (
        "default/x <- default/y <- default/z <- default/x" in shell(f"create pipeline -f {ring}", code=5).err
    )
    twice = write(shapes, "twice.json", [chain[2], chain[2]])
    assert "pipeline default/one is there twice" in shell(f"create pipeline -f {twice}", code=2).err
    assert names(shell) == []
    shell(f"create pipeline -f {file}")
    assert sorted(names(shell)) == ["one", "three", "two"]
    one = json.loads(shell("inspect job three@master -o json").out)
    assert shell(f"wait job {one['id']}").err.count("succeeded") == 3
    assert "exists already" in shell(f"create pipeline -f {file}", code=5).err
    made = json.loads(shell(f"update pipeline -f {file} -o json").out)
    assert [(pipeline["name"], pipeline["version"]) for pipeline in made] == [
        ("three", 2),
        ("two", 2),
        ("one", 2),
    ]
    for name in ("three", "two", "one"):  # the fixture would begin with the wrong end
        shell(f"delete pipeline {name}")


def test_a_file_is_gathered_in_a_transaction(shell: Shell, shapes: Path) -> None:
    chain = [spec("two", {"pfs": {"repo": "one", "glob": "/"}}), spec("one")]
    file = write(shapes, "chain.json", chain)
    started = shell("start transaction").out.strip()
    shell(f"create pipeline -f {file}")
    assert names(shell) == []
    [made] = json.loads(shell("finish transaction -o json").out)["answers"]
    assert [one["name"] for one in made] == ["two", "one"]
    assert json.loads(shell("inspect job two@master -o json").out)["id"] == started


def test_a_cycle_over_several_inputs_names_its_chain(shell: Shell, shapes: Path) -> None:
    shell(
        f"create pipeline -f {write(shapes, 'p.json', [spec('a'), spec('b', reads('a')), spec('c', reads('b'))])}"
    )
    closed = spec("a", {"cross": [{"pfs": {"repo": "shapes", "glob": "/"}}, reads("c")]})
    said = shell(f"update pipeline -f {write(shapes, 'a.json', closed)}", code=5).err
    assert "this would make a cycle: default/a <- default/c <- default/b <- default/a" in said


def reads(repo: str) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": "/"}}
