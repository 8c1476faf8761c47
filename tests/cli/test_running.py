"""``trunkline run --datum``: one datum of a spec in a folder, without any server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trunkline.cli.running import _place


class Folder:
    """A folder with a spec, in which ``trunkline run`` is called as a process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = path / "home"

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.path / name.replace("__", ".")).write_text(text)

    def spec(self, script: str = "", **more: Any) -> None:
        transform = {"cmd": ["sh", "-e"], "stdin": script.splitlines(), **more.pop("transform", {})}
        spec = {
            "pipeline": {"name": "edges"},
            "input": {"pfs": {"repo": "images", "glob": "/*"}},
            "transform": transform,
        }
        (self.path / "spec.json").write_text(json.dumps(spec | more))

    def run(
        self, *words: str, code: int = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        done = subprocess.run(
            [sys.executable, "-m", "trunkline.cli.main", "run", *words], cwd=self.path, capture_output=True, text=True,
            check=False, env={**kept, "TRUNKLINE_HOME": str(self.home), **(env or {})},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "cat.png").write_text("meow")
    return Folder(tmp_path)


@pytest.mark.slow
def test_one_datum_as_in_a_job(folder: Folder) -> None:
    folder.spec(
        """
        cat /pfs/images/cat.png > /pfs/out/copy
        echo "$images $PPS_PIPELINE_NAME ${#PACH_JOB_ID} ${#PACH_DATUM_ID} $OWN $PWD" > /pfs/out/said
        echo to stdout; echo to stderr >&2
        ls -A > /pfs/out/code
        if echo x > /pfs/images/cat.png; then exit 9; fi
        """,
        transform={"env": {"OWN": "mine"}, "code": "src"},
    )
    (folder.path / "src").mkdir()
    (folder.path / "src" / "main.py").write_text("")
    done = folder.run("--datum", "cat.png", "-f", "spec.json")
    assert done.stdout == "to stdout\n"
    assert "to stderr\n" in done.stderr and done.stderr.endswith("3 files in out\n")
    out = folder.path / "out"
    assert (out / "copy").read_text() == "meow" and (out / "code").read_text() == "main.py\n"
    path, name, job, datum, own, cwd = (out / "said").read_text().split()
    assert (name, job, datum, own) == ("edges", "32", "64", "mine")
    assert path.endswith("/images/cat.png") and cwd.endswith("/code")
    assert not folder.home.exists(), "no data directory is made for it"
    assert "out is there, and not empty" in folder.run("--datum", "cat.png", "-f", "spec.json", code=5).stderr
    folder.run("--datum", "images=cat.png", "-f", "spec.json", "-o", "further/own")
    assert sorted(one.name for one in (folder.path / "further" / "own").iterdir()) == ["code", "copy", "said"]


@pytest.mark.slow
def test_it_exits_as_the_command_does(folder: Folder) -> None:
    folder.spec("echo bad >&2; exit 7")
    done = folder.run("--datum", "cat.png", "-f", "spec.json", code=7)
    assert done.stderr.splitlines()[-1] == "failed: exit code 7: bad"
    assert not (folder.path / "out").exists()
    folder.spec("exit 7", transform={"accept_return_code": [7]})
    folder.run("--datum", "cat.png", "-f", "spec.json", code=7)
    assert (folder.path / "out").is_dir()
    folder.spec("exit 7", transform={"err_cmd": ["true"]})
    assert (
        "recovered: exit code 7"
        in folder.run("--datum", "cat.png", "-f", "spec.json", "-o", "o", code=7).stderr
    )
    folder.spec("sleep 60", datum_timeout="1s")
    assert (
        "datum_timeout of 1 s"
        in folder.run("--datum", "cat.png", "-f", "spec.json", "-o", "o", code=137).stderr
    )
    folder.spec("", transform={"cmd": ["no-such-command"]})
    assert (
        "command not found" in folder.run("--datum", "cat.png", "-f", "spec.json", "-o", "o", code=127).stderr
    )
    folder.spec("mkfifo /pfs/out/p")
    assert "is a named pipe" in folder.run("--datum", "cat.png", "-f", "spec.json", "-o", "o", code=2).stderr


@pytest.mark.slow
def test_several_inputs(folder: Folder) -> None:
    (folder.path / "words" / "deep").mkdir(parents=True)
    (folder.path / "words" / "deep" / "a.txt").write_text("x")
    cross = [
        {"pfs": {"repo": "images", "glob": "/*"}},
        {"pfs": {"repo": "words", "glob": "/", "name": "w"}},
        {"cron": {"name": "tick", "spec": "@daily"}},
    ]
    folder.spec("cd /pfs; find images w tick -type f | wc -l; echo $w", input={"cross": cross})
    done = folder.run("--datum", "images=cat.png", "--datum", "w=words", "-f", "spec.json")
    assert done.stdout.split()[0] == "3" and done.stdout.split()[1].endswith("/w")
    said = folder.run("--datum", "images=cat.png", "-f", "spec.json", "-o", "o", code=2).stderr
    assert "input w has no file: add --datum w=PATH" in said
    assert "write NAME=PATH" in folder.run("--datum", "cat.png", "-f", "spec.json", "-o", "o", code=2).stderr
    folder.spec("ls /pfs", input={"union": cross[:2]})
    assert folder.run("--datum", "images=cat.png", "-f", "spec.json", "-o", "o").stdout.split() == [
        "images",
        "out",
    ]


@pytest.mark.slow
def test_what_it_was_joined_by(folder: Folder) -> None:
    join = [
        {"pfs": {"repo": "images", "glob": "/(*).png", "join_on": "$1"}},
        {"pfs": {"repo": "words", "glob": "/(*).txt", "join_on": "$1"}},
    ]
    (folder.path / "cat.txt").write_text("")
    folder.spec("echo $PACH_DATUM_images_JOIN_ON $PACH_DATUM_words_JOIN_ON", input={"join": join})
    done = folder.run("--datum", "images=cat.png", "--datum", "words=cat.txt", "-f", "spec.json")
    assert done.stdout == "cat cat\n"


@pytest.mark.slow
def test_secrets_come_from_the_callers_environment(folder: Folder) -> None:
    folder.spec("echo got $KEY", transform={"secrets": [{"name": "s", "key": "k", "env_var": "KEY"}]})
    said = folder.run("--datum", "cat.png", "-f", "spec.json", code=2).stderr
    assert "the variable KEY would come from the secret s" in said
    done = folder.run("--datum", "cat.png", "-f", "spec.json", env={"KEY": "open sesame"})
    assert "open sesame" not in done.stdout and done.stdout.startswith("got ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--datum", "nowhere", "-f", "spec.json"], "there is no nowhere"),
        (["--datum", "cat.png", "-f", "none.json"], "cannot read none.json"),
        (["--datum", "cat.png", "-f", "two.yaml"], "choose one with --pipeline: a, b"),
        (["--datum", "cat.png", "-f", "two.yaml", "--pipeline", "c"], "no pipeline c; it has a, b"),
        (["--datum", "cat.png", "-f", "bad.json"], "transform: missing"),
        (["-f", "spec.json"], "write: trunkline run --datum PATH -f SPEC"),
    ],
)
def test_bad_input_is_clear(folder: Folder, words: list[str], message: str) -> None:
    folder.spec("true")
    folder.write(
        two__yaml="pipeline: {name: a}\n---\npipeline: {name: b}\n", bad__json='{"pipeline": {"name": "x"}}'
    )
    done = folder.run(*words, code=2)
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "glob", "expected"),
    [
        ("data/2024/a.png", "/*/*.png", ("/2024/a.png", ())),
        ("data/2024/a.png", "/(*)/*", ("/2024/a.png", ("2024",))),
        ("data/2024/a.png", "*", ("/a.png", ())),
        ("data/2024/a.png", "/*.txt", ("/a.png", None)),
        ("data/2024", "/*", ("/2024/", ())),
        ("data/2024", "/", ("/", ())),
    ],
)
def test_where_a_file_lies(tmp_path: Path, path: str, glob: str, expected: tuple[str, Any]) -> None:
    (tmp_path / "data" / "2024").mkdir(parents=True)
    (tmp_path / "data" / "2024" / "a.png").write_text("")
    assert _place(tmp_path / path, glob) == expected


@pytest.mark.slow
def test_requirements_and_a_function(folder: Folder) -> None:
    from tests.workers.test_environments import lines_for, make_wheel

    make_wheel(folder.path / "wheels", "shout", "1.0", "def up(text):\n    return text.upper() + '!'\n")
    (folder.path / "flow.py").write_text(
        "import trunkline\n"
        f"@trunkline.pipeline(input={{'pfs': {{'repo': 'images', 'glob': '/*'}}}}, "
        f"requirements={lines_for(folder.path / 'wheels', 'shout==1.0').splitlines()!r})\n"
        "def loud(datum):\n    import shout\n    (datum.out / 'x').write_text(shout.up(datum.inputs['images'].read_text()))\n"
    )
    made = [sys.executable, "-c", "import flow; flow.loud.write('made')"]
    subprocess.run(made, cwd=folder.path, check=True)
    folder.home.mkdir()
    folder.run("--datum", "cat.png", "-f", "made/pipeline.json")
    assert (folder.path / "out" / "x").read_text() == "MEOW!"
    again = folder.run("--datum", "cat.png", "-f", "made/pipeline.json", "-o", "again")
    assert "making the Python environment" not in again.stderr
