from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from dataclasses import dataclass

import pytest

from trunkline.cli.main import run
from trunkline.testing.server import ServerHarness


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


class _Stream(io.TextIOWrapper):
    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", write_through=True)

    def text(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


def run_here(line: str, env: dict[str, str], stdin: bytes = b"") -> Done:
    """One command in this process."""
    out, err = _Stream(), _Stream()
    before, real_stdin = dict(os.environ), sys.stdin
    os.environ.clear()
    os.environ.update(env)
    sys.stdin = _Stream(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(shlex.split(line))
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.stdin = real_stdin
    return Done(code, out.text(), err.text())


class Shell:
    """``shell("list repos")`` runs it, and fails the test unless it ends with the expected code."""

    def __init__(self, server: ServerHarness) -> None:
        self.server = server

    def __call__(self, line: str, *, code: int = 0, stdin: bytes = b"") -> Done:
        done = run_here(line, self.server.env, stdin)
        assert done.code == code, f"trunkline {line}: {done}"
        return done


@pytest.fixture(scope="module")
def shell(shared_server: ServerHarness) -> Shell:
    return Shell(shared_server)
