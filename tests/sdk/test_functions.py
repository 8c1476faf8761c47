"""Pipelines written as functions: what travels with them, one datum here and now, and the same function in jobs."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trunkline
from trunkline import functions
from trunkline.batching import Datum
from trunkline.errors import AlreadyExistsError, InvalidInputError
from trunkline.sdk import Client
from trunkline.sdk.function_code import code_of
from trunkline.sdk.work import FINAL
from trunkline.testing.server import ServerHarness, running_server

WAIT_SECONDS = 90.0
TEXTS = {"pfs": {"repo": "texts", "glob": "/*"}}


@trunkline.pipeline(input=TEXTS, parallelism=2, datum_tries=1, env={"MARK": "!"})
def shout(datum: Datum) -> None:
    """Makes texts loud.

    And more.
    """
    source = datum.inputs["texts"]
    (datum.out / source.name).write_text(source.read_text().upper() + datum.env["MARK"])


@trunkline.pipeline(
    input={"cross": [TEXTS, {"pfs": {"repo": "words", "name": "w", "glob": "/"}}]}, project="p"
)
def both(datum: Datum) -> None:
    names = [path.name for name in sorted(datum.inputs) for path in datum.files(name)]
    (datum.out / "names").write_text(" ".join(names))


def test_the_spec() -> None:
    assert shout.spec() == {
        "pipeline": {"name": "shout"}, "input": TEXTS, "parallelism_spec": {"constant": 2}, "datum_tries": 1,
        "description": "Makes texts loud.",
        "transform": {
            "cmd": ["python", "-m", "trunkline.calling", "tests.sdk.test_functions:shout"], "code": "code",
            "datum_batching": True, "env": {"MARK": "!"},
        },
    }  # fmt: skip
    assert both.spec()["pipeline"] == {"name": "both", "project": "p"}


def test_one_datum_here_and_now(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ah")
    out = shout.run_local(tmp_path / "a.txt")
    assert (out / "a.txt").read_text() == "AH!"
    assert (shout.run_local(str(tmp_path / "a.txt"), env={"MARK": "?"}) / "a.txt").read_text() == "AH?"
    own = shout.run_local(tmp_path / "a.txt", out=tmp_path / "own")
    assert own == tmp_path / "own"
    with pytest.raises(AlreadyExistsError, match="is not empty"):
        shout.run_local(tmp_path / "a.txt", out=own)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b").write_text("")
    made = both.run_local({"texts": tmp_path / "a.txt", "w": tmp_path / "in"})
    assert (made / "names").read_text() == "a.txt b"
    datum = Datum("1", {"MARK": "."}, {"texts": str(tmp_path / "a.txt")}, out=made)
    assert (shout.run_local(datum) / "a.txt").read_text() == "AH."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.txt", "there is no nowhere.txt"),
        ({"text": __file__}, "shout has no input 'text'; it has texts"),
    ],
)
def test_bad_datums_are_named(given: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        shout.run_local(given)
    with pytest.raises(InvalidInputError, match="both has the inputs texts, w: give each its path"):
        both.run_local(__file__)


def test_its_exceptions_come_through_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="MARK"):
        shout.run_local(Datum("1", {}, {"texts": __file__}, out=tmp_path))


def test_the_examples_of_docstrings() -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for example in [
        *finder.find(functions.pipeline),
        *finder.find(functions.input_names, globs=vars(functions)),
    ]:
        runner.run(example)
    assert runner.summarize(verbose=False) == (0, 4)


def test_the_guide_and_its_spec(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "pipelines-python.md").read_text()
    (tmp_path / "flow.py").write_text(guide.split("```python\n")[1].split("```")[0])
    (tmp_path / "a.txt").write_text("ah")
    look = "import flow; print((flow.shout.run_local('a.txt') / 'a.txt').read_text(), flow.shout.spec()['description'])"
    assert run_in(tmp_path, look) == "AH Makes texts loud.\n"


# --- what travels ---


def run_in(folder: Path, code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_the_modules_beside_it_that_it_imports_come_along(tmp_path: Path) -> None:
    flow = """
import json, helper
from kit.tools import tool
import trunkline

@trunkline.pipeline(input={"pfs": {"repo": "r", "glob": "/"}}, include=["words"], requirements=["six==1.16.0"])
def f(datum):
    pass
"""
    files = {"flow.py": flow, "helper.py": "import deeper\n", "deeper.py": "", "unused.py": "1/0\n"}
    write(tmp_path, {**files, "kit/__init__.py": "", "kit/tools.py": "def tool(): pass\n"})
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("x")
    run_in(tmp_path, "import flow; flow.f.write('out')")
    found = sorted(
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    )
    assert found == [
        "code/deeper.py", "code/flow.py", "code/helper.py", "code/kit/__init__.py", "code/kit/tools.py",
        "code/requirements.txt", "code/words/a.txt", "pipeline.json",
    ]  # fmt: skip
    spec = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert (
        spec["transform"]["cmd"][-1] == "flow:f" and spec["transform"]["requirements"] == "requirements.txt"
    )
    assert (
        run_in(
            tmp_path / "out" / "code", "from trunkline.calling import load; print(load('flow:f').__name__)"
        )
        == "f\n"
    )


def test_a_module_of_a_package_brings_the_package(tmp_path: Path) -> None:
    flow = "from . import other\nimport trunkline\n@trunkline.pipeline(input={})\ndef f(datum): pass\n"
    write(tmp_path, {"app/__init__.py": "", "app/other.py": "", "app/flow.py": flow})
    look = "print(target_of(f.function), *sorted(code_of(f.function)))"
    said = run_in(tmp_path, f"from app.flow import f; from trunkline.sdk.function_code import *; {look}")
    assert said.split() == ["app.flow:f", "app/__init__.py", "app/flow.py", "app/other.py"]


def test_a_script_is_imported_by_its_name(tmp_path: Path) -> None:
    guarded = "if __name__ == '__main__':\n    print(f.spec()['transform']['cmd'][-1])\n"
    write(
        tmp_path,
        {"script.py": f"import trunkline\n@trunkline.pipeline(input={{}})\ndef f(datum): pass\n{guarded}"},
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "script:f\n"


def notebook(tmp_path: Path, cells: str, tail: str) -> str:
    """Run cells as a notebook does: in a __main__ without a file, their source known to linecache."""
    code = f"""
    import linecache, sys, types
    cells = {textwrap.dedent(cells)!r}
    linecache.cache["<cell 1>"] = (len(cells), None, cells.splitlines(True), "<cell 1>")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(cells, "<cell 1>", "exec"), main.__dict__)
    exec({tail!r}, main.__dict__)
    """
    return run_in(tmp_path, code)


CELLS = """
import json as j
import trunkline
from pathlib import Path
from collections.abc import Mapping
from functools import partial, lru_cache
import own_helper
SIZE = (3, "x")
PLACE = Path("/tmp")
table = object()

class Reader:
    size = SIZE
    def read(self, path: Path) -> str:
        return clean(path.read_text())

@lru_cache
def clean(text):
    return text.strip().upper()

@trunkline.pipeline(input={"pfs": {"repo": "texts", "glob": "/*"}})
def f(datum, limit=SIZE[0]) -> Mapping:
    (datum.out / "said").write_text(j.dumps([Reader().read(datum.inputs["texts"]), Reader.size, limit, str(PLACE)]))

@trunkline.pipeline(input={"pfs": {"repo": "texts", "glob": "/*"}})
def bad(datum):
    print(table)
"""


def test_a_function_of_a_notebook_travels_with_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "own_helper.py").write_text("")
    said = notebook(tmp_path, CELLS, "f.write('out'); print(f.spec()['transform']['cmd'][-1])")
    assert said == "notebook_code:f\n"
    (tmp_path / "in.txt").write_text(" ah ")
    run = """
    import pathlib, sys
    from trunkline.batching import Datum
    from trunkline.calling import load
    load("notebook_code:f")(Datum("1", {}, {"texts": sys.argv[1]}, out=pathlib.Path(".")))
    """
    run_in(tmp_path / "out" / "code", run, str(tmp_path / "in.txt"))
    assert json.loads((tmp_path / "out" / "code" / "said").read_text()) == ["AH", [3, "x"], 3, "/tmp"]
    text = (tmp_path / "out" / "code" / "notebook_code.py").read_text()
    assert "own_helper" not in text and "table" not in text and "pipeline(" not in text


@pytest.mark.slow
def test_what_cannot_travel_is_named(tmp_path: Path) -> None:
    tail = """
try:
    bad.write('out')
except trunkline.TrunklineError as error:
    print(error.kind, error)
"""
    (tmp_path / "own_helper.py").write_text("")
    said = notebook(tmp_path, CELLS, tail)
    assert said.startswith("not_portable bad uses table, a object, which cannot travel with its code")
    with pytest.raises(InvalidInputError, match="no such file or folder"):
        code_of(shout.function, [Path("nothing-there")])


def test_a_function_in_a_function_travels_with_its_closure() -> None:
    factor = 3

    @trunkline.pipeline(input=TEXTS)
    def inner(datum: Datum) -> None:
        print(datum.id * factor)

    code = code_of(inner.function)
    assert list(code) == ["notebook_code.py"]
    assert b"factor = 3" in code["notebook_code.py"]
    assert list(functions.input_names(both.spec()["input"])) == ["texts", "w"]


# --- in jobs ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerHarness]:
    with running_server(tmp_path / "home", settings={"TRUNKLINE_WORKER_IDLE_SECONDS": "2"}) as harness:
        harness.client().create_repo("texts")
        yield harness


def job_of(client: Client, pipeline: str, commit: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        if client.list_jobs(pipeline) and (job := client.inspect_job(f"{pipeline}@{commit}")).status in FINAL:
            return job
        assert time.monotonic() < deadline
        time.sleep(0.1)


JOB_CODE = """
import os
import trunkline

@trunkline.pipeline(input={"pfs": {"repo": "texts", "glob": "/*"}}, datum_tries=1, batching=%s, on_failure="fail")
def shout(datum):
    source = datum.inputs["texts"]
    text = source.read_text()
    if text == "bad":
        raise ValueError("it is bad")
    if text == "exit":
        raise SystemExit(3)
    print("looking at", source)
    (datum.out / source.name).write_text(f"{text.upper()} {os.getpid()} {datum.id == os.environ['PACH_DATUM_ID']}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("batching", [True, False])
def test_the_same_function_in_jobs(server: ServerHarness, tmp_path: Path, batching: bool) -> None:
    client = server.client()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "flow.py").write_text((JOB_CODE % batching).replace(', on_failure="fail"', ""))
    url, token = client.url, (server.home / "token").read_text().strip()
    make = """
    import sys, trunkline, flow
    made = flow.shout.create(trunkline.Client(url=sys.argv[1], token=sys.argv[2]))
    assert (made.name, made.version) == ("shout", 1)
    """
    run_in(tmp_path / "work", make, url, token)
    commit = client.put_files("texts@master", [(name, name.encode()) for name in ("a", "b", "c")]).id
    job = job_of(client, "shout", commit)
    assert job.status == "succeeded", [line["text"] for line in client.pipeline_logs("shout", job=commit)]
    said = {}
    for name in ("a", "b", "c"):
        with client.get_file(f"shout@{commit}:/{name}") as stream:
            said[name] = stream.read().decode().split()
    assert {name: words[0] for name, words in said.items()} == {"a": "A", "b": "B", "c": "C"}
    assert {words[2] for words in said.values()} == {"True"}
    assert len({words[1] for words in said.values()}) == (1 if batching else 3)

    commit = client.put_files("texts@master", [("x", b"bad"), ("y", b"exit"), ("z", b"good")]).id
    assert job_of(client, "shout", commit).status == "failed"
    reasons = {
        datum.inputs[0].paths[0]: str(datum.reason)
        for datum in client.list_datums(f"shout@{commit}")
        if datum.status == "failed"
    }
    assert "ValueError: it is bad" in reasons["/x"] and 'raise ValueError("it is bad")' in reasons["/x"]
    assert "SystemExit: 3" in reasons["/y"]
    if batching:
        assert reasons["/x"] == 'ValueError: it is bad (flow.py, line 10: raise ValueError("it is bad"))'
    update = """
    import sys, trunkline, flow
    print(flow.shout.update(trunkline.Client(url=sys.argv[1], token=sys.argv[2])).version)
    """
    assert run_in(tmp_path / "work", update, url, token) == "2\n"
