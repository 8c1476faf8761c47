"""The files and commands of docs/guides/pipelines.md work as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from trunkline.pipelines.spec import parse_spec
from trunkline.sdk.specs import parse_specs

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "pipelines.md"
BLOCK = re.compile(r"<!-- tested: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
BLOCKS: dict[str, str] = dict(BLOCK.findall(GUIDE.read_text()))


def run_block(shell: Shell, name: str) -> list[str]:
    """The output of each of its commands."""
    found = []
    for line in BLOCKS[name].splitlines():
        left, pipe, right = line.partition(" | ")
        stdin = left.removeprefix("echo ").encode() + b"\n" if pipe else b""
        found.append(shell((right if pipe else line).removeprefix("trunkline "), stdin=stdin).out)
    return found


@pytest.mark.slow
def test_it_works_as_it_stands_there(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("_jsonnet")
    monkeypatch.chdir(tmp_path)
    for name, text in BLOCKS.items():
        if "." in name:
            (tmp_path / name).write_text(text)
    assert run_block(shell, "first")[-1] == "HELLO\n"
    assert run_block(shell, "cron")[2].count("Z\n") == 1
    assert "texts:/a.txt" in run_block(shell, "dry")[1]
    drawn = run_block(shell, "jsonnet")[-1]
    assert "default/texts-copy-3" in drawn
    assert run_block(shell, "changing")[1].count(" shout ") == 2
    for repo in ("pictures", "labels"):
        shell(f"create repo {repo}")
    shell("put file labels@master:/1.txt -f -", stdin=b"one ")
    shell("put file pictures@master:/1.png -f -", stdin=b"picture")
    shell("create pipeline -f pairs.yaml")
    shell("wait commit pairs@master")
    assert shell("get file pairs@master:/1").out == "one picture"


def test_every_spec_of_it_is_one() -> None:
    for name in ("shout.json", "report.json", "pairs.yaml"):
        for spec in parse_specs(BLOCKS[name], name):
            parse_spec(spec, "default")
