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
from typing import Any

__all__ = ["Datum", "datums"]

_SOCKET = "TRUNKLINE_DATUM_SOCKET"


class Datum:
    """One datum: its inputs lie below ``/pfs``, and what is in ``out`` at its end is its output."""

    def __init__(
        self,
        id: str,  # noqa: A002
        env: Mapping[str, str],
        inputs: Mapping[str, str],
        *,
        out: Path | None = None,
    ) -> None:
        self.id = id
        self.out = out or _out()
        """Where its outputs go."""
        self.env = env
        """Its environment variables; they are in ``os.environ``, too."""
        self.reason: str | None = None
        self._inputs = inputs

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
        answers = line.makefile("rb")
        said: dict[str, Any] = {"do": "next"}
        used = _used()
        out = _out()
        job: dict[str, str] = {}
        while True:
            sys.stdout.flush()
            sys.stderr.flush()  # what was written so far belongs to the datum before
            line.sendall(json.dumps(said).encode() + b"\n")
            answer = answers.readline()
            if not answer:
                return  # whoever gave the datums is gone
            answered = json.loads(answer)
            given = answered.get("datum")
            if given is None:
                return
            if "job" in answered:  # the first one of a job
                job = answered["job"]
                os.environ.update(job)
            os.environ.update(given["env"])
            datum = Datum(given["id"], {**job, **given["env"]}, given["inputs"], out=out)
            yield datum
            before, used = used, _used()
            said = {"do": "next", "cpu_seconds": used[0] - before[0], "memory_bytes": used[1]}
            if datum.reason is not None:
                said |= {"status": "failed", "reason": datum.reason}


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

    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return seconds, max(own.ru_maxrss, children.ru_maxrss) * unit
