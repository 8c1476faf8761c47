"""One datum of a spec here and now: the sandbox, the environment and the variables of a job, without a job or a server.

Identifiers are made up, and the address that the command is told leads nowhere. Nothing is stored but the outputs, in a folder.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from trunkline.errors import AlreadyExistsError, InvalidInputError
from trunkline.workers.lease import TaskContext, WorkerEnvironment
from trunkline.workers.logs import hiding
from trunkline.workers.outputs import outputs_of
from trunkline.workers.place import Place
from trunkline.workers.sandbox import Command, Ended, become_subreaper
from trunkline.workers.scratch import make_scratch, remove_tree
from trunkline.workers.variables import datum_variables, job_variables

NOWHERE = "http://127.0.0.1:9"
"""The port of 'discard': nobody answers there."""


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file or folder that a datum is to see."""

    input: str
    path: str
    """Where it is in the input: as in a repo, a folder's path ends in ``/``."""
    source: Path | None
    """Where it is now; None: an empty file."""


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """All that is needed to run one datum."""

    spec: Mapping[str, Any]
    """Effective."""
    environment: Mapping[str, Any]
    limits: Mapping[str, Any]
    files: Sequence[LocalFile]
    code: Path | None
    out: Path
    """Where outputs go; not there, or empty."""
    home: Path
    """The data directory: hidden, and where Python environments are kept."""
    sandbox: str = "auto"
    on_line: Callable[[str, str], None]
    """``(text, stream)``; the stream ``trunkline`` is our own."""
    datum_env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """How it went."""

    exit_code: int
    reason: str
    """Why it failed; empty if it did not."""
    is_recovered: bool
    file_count: int


def run_datum(run: LocalRun) -> LocalResult:
    """Run one datum to its end.

    :raises AlreadyExistsError: ``out_exists``; ``InvalidInputError`` for what the spec asks for and this machine cannot give;
        ``bad_output``.
    """
    if run.out.exists() and (not run.out.is_dir() or any(run.out.iterdir())):
        raise AlreadyExistsError(
            f"{run.out} is there, and not empty: remove it, or name another folder with -o", kind="out_exists"
        )
    payload = _payload(run)
    name = f"local-{os.getpid()}-{secrets.token_hex(4)}"
    become_subreaper()
    with _scratch(run.home, name) as (home, scratch):
        environment = WorkerEnvironment(
            worker="datum", queue="", home=home, url=NOWHERE, token="", process_id=name, sandbox=run.sandbox
        )
        place = _LocalPlace(environment, scratch, run.code)
        context = _context(run)
        try:
            place.prepare(context, payload)
            if place.warning:
                run.on_line(f"warning: not isolated, and /pfs is at $PFS_ROOT: {place.warning}", "trunkline")
            return _command(run, place, payload, context)
        finally:
            place.close()


def _command(run: LocalRun, place: Place, payload: Mapping[str, Any], context: TaskContext) -> LocalResult:
    box, datum, transform = place.box, payload["datums"][0], payload["transform"]
    seen = _lay(run, place)
    env = job_variables(payload, box, NOWHERE, "local") | datum_variables(payload, datum, seen)
    shown = hiding(list(payload["secrets_env"].values()))
    place.sandbox.output.listen(run.on_line, shown)

    def command(argv: Sequence[str], stdin: str) -> Ended:
        return place.sandbox.run(
            Command(
                argv=argv, stdin=box.folder / stdin, env=env, cwd=place.cwd(payload), interrupted=context.interrupted,
                timeout_seconds=payload["datum_timeout_seconds"],
            )
        )  # fmt: skip

    ended = command(transform["cmd"], "stdin")
    is_good = ended.exit_code in (0, *transform["accept_return_code"]) and not (ended.kind or ended.timed_out)
    count, is_recovered = 0, False
    if is_good:
        count = _keep(run, place)
    elif transform["err_cmd"]:
        run.on_line(f"the command failed ({ended.reason}); running err_cmd", "trunkline")
        is_recovered = command(transform["err_cmd"], "err_stdin").exit_code == 0
    reason = "" if is_good else ended.reason
    return LocalResult(exit_code=ended.exit_code, reason=reason, is_recovered=is_recovered, file_count=count)


def _lay(run: LocalRun, place: Place) -> dict[str, str]:
    """Fill ``/pfs`` with copies; returns the path of each input as the command sees it."""
    box = place.box
    seen: dict[str, str] = {}
    for one in run.files:
        inside = one.path.strip("/")
        top = box.pfs / one.input
        target = top / inside if inside else top
        target.parent.mkdir(parents=True, exist_ok=True)
        if one.source is None:
            target.touch()
        elif one.source.is_dir():
            shutil.copytree(one.source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(one.source, target)
        whole = f"{box.seen_pfs}/{one.input}"
        seen[one.input] = whole if one.input in seen else f"{whole}/{inside}".rstrip("/")
    return seen


def _keep(run: LocalRun, place: Place) -> int:
    """Copy the outputs, the whole of them or nothing."""
    run.out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{run.out.name}-", dir=run.out.parent))
    new.chmod(0o755)
    try:
        count = 0
        for found in outputs_of(place.view()):
            target = new / found.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found.path, target)
            count += 1
        if run.out.is_dir():
            run.out.rmdir()
        new.rename(run.out)
    except BaseException:
        remove_tree(new)
        raise
    return count


def _payload(run: LocalRun) -> dict[str, Any]:
    """What the server would tell of it."""
    transform = run.spec["transform"]
    pipeline = run.spec["pipeline"]
    made_up = secrets.token_hex(16)
    names = list(dict.fromkeys(one.input for one in run.files))
    return {
        "job": {"project": pipeline["project"], "pipeline": pipeline["name"], "id": made_up, "version": 1},
        "set": 0, "careful": False, "tries": 1,
        "transform": transform,
        "environment": run.environment,
        "secrets_env": _secrets(transform.get("secrets") or []),
        "secret_files": {},
        "code_root": None if run.code is None else _digest(run.code),
        "job_token": "none",
        "limits": run.limits,
        "datum_timeout_seconds": run.spec.get("datum_timeout"),
        "env_extra": {
            "PACH_JOB_ID": made_up, "PACH_OUTPUT_COMMIT_ID": made_up, "PPS_PIPELINE_NAME": pipeline["name"],
            "PPS_PROJECT_NAME": pipeline["project"], "PPS_SPEC_COMMIT": "v1", "TRUNKLINE_PROJECT": pipeline["project"],
            "TRUNKLINE_PIPELINE": pipeline["name"], "TRUNKLINE_JOB_ID": made_up,
        },
        "inputs": [{"name": name, "commit": made_up, "root": made_up} for name in names],
        "datums": [
            {
                "id": secrets.token_hex(32), "identity": "", "attempts": 0, "env": dict(run.datum_env),
                "files": [[names.index(one.input), one.path, "", 0] for one in run.files],
            }
        ],
    }  # fmt: skip


def _digest(folder: Path) -> str:
    """The same for the same files."""
    found = hashlib.blake2b(digest_size=32)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(path.relative_to(folder).as_posix().encode() + b"\0")
            found.update(hashlib.blake2b(path.read_bytes()).digest())
    return found.hexdigest()


def _secrets(wanted: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The caller's own environment stands for the server's secrets."""
    found = {}
    for one in wanted:
        variable = one.get("env_var")
        if not variable:
            raise InvalidInputError(
                f"secret {one['name']} has a mount_path, which needs a job: one datum alone gets secrets with env_var",
                kind="no_secret",
            )
        if variable not in os.environ:
            raise InvalidInputError(
                f"the variable {variable} would come from the secret {one['name']}, which is on a server: set it yourself",
                kind="no_secret",
            )
        found[variable] = os.environ[variable]
    return found


def _context(run: LocalRun) -> TaskContext:
    """As much of one as a place looks at."""
    interrupted = threading.Event()

    def log(text: str, stream: str = "stdout", *_: object) -> None:
        run.on_line(text, stream)

    return cast(
        TaskContext,
        SimpleNamespace(
            link=SimpleNamespace(url=NOWHERE), log=log, interrupted=interrupted, check=lambda: None
        ),
    )


@contextmanager
def _scratch(home: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """The data directory and a folder in it; where there is none, one that does not stay."""
    temporary = None
    if not home.is_dir():
        temporary = home = Path(tempfile.mkdtemp(prefix="trunkline-"))
    scratch = make_scratch(home.resolve(), name)
    try:
        yield home, scratch
    finally:
        remove_tree(scratch)
        if temporary is not None:
            remove_tree(temporary)


class _LocalPlace(Place):
    """Gets its code from a folder beside the spec."""

    def __init__(self, environment: WorkerEnvironment, scratch: Path, code: Path | None) -> None:
        super().__init__(environment, scratch)
        self._folder = code

    def _fetch_code(self, context: TaskContext, root: str) -> None:
        target = self._pristine / root
        if self._folder is not None and not target.is_dir():
            shutil.copytree(self._folder, target)
