"""One process for many datums: for pipelines with ``transform.datum_batching``.

    import trunkline

    model = load_model()                            # once
    for datum in trunkline.datums():
        for path in datum.files("images"):          # below /pfs/images
            write(f"/pfs/out/{path.name}", model(path))

Standard library only, and nothing else of trunkline: where that is not installed, copy this file beside your own and
``from batching import datums``. In a pipeline without ``datum_batching`` the loop runs once, for the datum that there is.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Datum", "datums"]

_SOCKET = "TRUNKLINE_DATUM_SOCKET"
_ANSWER_BYTES = 65536
_RSS_BYTES = 1 if sys.platform == "darwin" else 1024


class Datum:
    """One datum: its inputs lie below ``/pfs``, and what is in ``out`` at its end is its output."""

    def __init__(
        self,
        id: str,  # noqa: A002
        env: Mapping[str, str],
        inputs: Mapping[str, str],
        *,
        out: Path | None = None,
        job: Mapping[str, str] | None = None,
    ) -> None:
        self.id = id
        self.out = out or _out()
        """Where its outputs go."""
        self.reason: str | None = None
        self._env = env
        self._job = job or {}
        self._inputs = inputs

    @functools.cached_property
    def env(self) -> Mapping[str, str]:
        """Its environment variables; they are in ``os.environ``, too."""
        return {**self._job, **self._env}

    @functools.cached_property
    def inputs(self) -> Mapping[str, Path]:
        """Where each input is: a file, or a folder with the files."""
        return {name: Path(path) for name, path in self._inputs.items()}

    def files(self, name: str) -> list[Path]:
        """All files of an input, in order.

        >>> datum.files("images")
        [PosixPath('/pfs/images/cat.png')]
        """
        top = self.inputs[name]
        if not top.is_dir():
            return [top]
        return sorted(path for path in top.rglob("*") if not path.is_dir())

    def fail(self, reason: str) -> None:
        """This datum cannot be done: it fails, with this reason, and the loop goes on with the next.

        (An exception that leaves the loop ends the process. That fails the datum as well, and costs a new start.)
        """
        self.reason = reason

    def __repr__(self) -> str:
        return f"Datum({self.id[:12]}, {', '.join(self._inputs.values())})"


def datums() -> Iterator[Datum]:
    """The datums that this process is given, one after the other. A datum is done when the next one is asked for.

    >>> for datum in trunkline.datums():
    ...     shutil.copy(datum.inputs["images"], "/pfs/out")
    """
    place = os.environ.get(_SOCKET)
    if place is None:
        yield from _the_only_one()
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(place)
        environ, out = os.environ, _out()
        job: dict[str, str] = {}
        said, seconds = '{"do": "next"}\n', _used()[0]
        while True:
            sys.stdout.flush()
            sys.stderr.flush()  # what was written so far belongs to the datum before
            line.sendall(said.encode())
            answer = json.loads(_answer(line) or "{}")
            given = answer.get("datum")
            if given is None:
                return
            if "job" in answer:  # the first one of a job
                job = answer["job"]
                environ.update(job)
            env = given["env"]
            for name in env:
                environ[name] = env[name]
            datum = Datum(given["id"], env, given["inputs"], out=out, job=job)
            yield datum
            before, (seconds, memory) = seconds, _used()
            said = f'{{"do": "next", "cpu_seconds": {seconds - before:.6f}, "memory_bytes": {memory}'
            if datum.reason is not None:
                said += f', "status": "failed", "reason": {json.dumps(datum.reason)}'
            said += "}\n"


def _answer(line: socket.socket) -> str:
    """One line; empty if whoever gave the datums is gone."""
    answer = line.recv(_ANSWER_BYTES)
    while not answer.endswith(b"\n"):
        more = line.recv(_ANSWER_BYTES)
        if not more:
            return ""
        answer += more
    return answer.decode()  # bytes would first be looked at for their encoding


def _the_only_one() -> Iterator[Datum]:
    if "PACH_DATUM_ID" not in os.environ:
        raise RuntimeError("trunkline.datums() gives the datums of a pipeline, and this is not run by one")
    names = [name.removesuffix("_COMMIT") for name in os.environ if name.endswith("_COMMIT")]
    inputs = {name: os.environ[name] for name in names if name in os.environ}
    datum = Datum(os.environ["PACH_DATUM_ID"], dict(os.environ), inputs)
    yield datum
    if datum.reason is not None:
        raise SystemExit(datum.reason)


def _out() -> Path:
    return Path(os.environ.get("PFS_ROOT") or "/pfs") / "out"


def _used() -> tuple[float, int]:
    """CPU seconds and the most memory so far, of this process and those that it has waited for."""
    import resource  # noqa: PLC0415  (there is none everywhere)

    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return seconds, max(own.ru_maxrss, children.ru_maxrss) * _RSS_BYTES
