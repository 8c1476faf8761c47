"""Python environments made from requirements files: ``environments/<hash>`` in the data directory, made once and shared.

One is made inside the sandbox, since the set-up code of packages is a user's code as any other: it sees its own folder at
the place where the finished environment will be, and nothing else of the data directory. What is finished is renamed into
place. Whoever uses an environment holds a shared lock on ``<hash>.lock`` (it goes with the process, however that ends);
whoever makes or removes one holds it alone.

The packages of the Python below it stay visible behind its own, so that ``import trunkline`` works as everywhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trunkline.environments import Interpreter, environment_key, interpreter_of, without_credentials
from trunkline.errors import InvalidInputError
from trunkline.workers.box import Box
from trunkline.workers.environments.base import Prepared, Wanted
from trunkline.workers.sandbox import Ended, run
from trunkline.workers.scratch import remove_tree

READY_FILE = "trunkline.json"
"""Written last; its time of change is that of the last use."""
BASE_FILE = "_below.pth"
BUILD_SECONDS_MAX = 3600.0
LOCK_POLL_SECONDS = 0.1
INCLUDES_MAX = 20
_INCLUDE = re.compile(r"^(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)")
_EDITABLE = re.compile(r"^(?:-e|--editable)\b")
_FOUND_IN = re.compile(r"^(?:-f|--find-links)[\s=]+(\S+)")
_ARCHIVE = re.compile(r"^[^/#]\S*\.(?:whl|zip|tar\.gz)$")
PASSED_ON = (
    "HOME", "USER", "LANG", "LC_ALL", "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What is to be installed."""

    text: str
    file: str
    """Its name in messages and below the code folder; empty if the settings name it."""
    more: tuple[str, ...]
    """What else decides: the text of files that it includes, the code folder if it installs from there."""


class ProcessDriver:
    """Environments of this machine's Pythons."""

    def __init__(self) -> None:
        self._ready: dict[str, tuple[int, Prepared]] = {}
        """By key: the lock that is held, and what was prepared."""

    def prepare(self, wanted: Wanted) -> Prepared:
        """As the settings say, and with a Python environment of its own if there are requirements."""
        place = wanted.payload["environment"]
        requirements = _requirements_of(wanted)
        if requirements is None:
            python = place["python"]
            keep = [Path(one) for one in place["path"]] + ([Path(python).parent.parent] if python else [])
            path = (str(Path(python or sys.executable).parent), *place["path"])
            return Prepared(path=path, env=place["env"], keep=tuple(keep))
        below = interpreter_of(place["python"])
        key = environment_key(below.name, requirements.text, below.prefix, *requirements.more)
        if key not in self._ready:
            lock = _made(wanted, requirements, below, key)
            folder = environments_folder(wanted.home) / key
            found = Prepared(
                path=(str(folder / "bin"), str(Path(below.python).parent), *place["path"]),
                env={**place["env"], "VIRTUAL_ENV": str(folder)},
                keep=(folder, *(Path(one) for one in (below.prefix, *below.paths, *place["path"]))),
                key=key,
            )
            self._ready[key] = (lock, found)
        prepared = self._ready[key][1]
        with suppress(OSError):
            os.utime(environments_folder(wanted.home) / key / READY_FILE)
        return prepared

    def close(self) -> None:
        """Let others remove the environments."""
        for lock, _ in self._ready.values():
            os.close(lock)
        self._ready.clear()


def environments_folder(home: Path) -> Path:
    """Where environments lie in a data directory."""
    return home.resolve() / "environments"


def remove_unused(home: Path, unused_seconds: float) -> list[str]:
    """Remove the environments that nothing has used for so long, and what is left of attempts; returns their names."""
    removed = []
    for lock_file in sorted(environments_folder(home).glob("*.lock")):
        folder = lock_file.with_suffix("")
        with suppress(OSError):
            lock = os.open(lock_file, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is in use
                ready = folder / READY_FILE
                if folder.is_dir() and (
                    not ready.exists() or time.time() - ready.stat().st_mtime > unused_seconds
                ):
                    doomed = folder.with_suffix(".removed")
                    folder.rename(doomed)
                    remove_tree(doomed)
                    removed.append(folder.name)
            finally:
                os.close(lock)
            # The lock file stays: another process may be waiting on it, and a new file would be a second lock.
    return removed


# --- what is asked for ---


def _requirements_of(wanted: Wanted) -> Requirements | None:
    file = wanted.payload["transform"].get("requirements") or ""
    if not file:
        text = wanted.payload["environment"].get("requirements")
        return None if text is None else Requirements(text=text, file="", more=())
    if wanted.code is None:
        raise InvalidInputError(
            f"transform.requirements {file!r} is a file in the code folder: set transform.code, too",
            kind="bad_requirements",
        )
    texts: dict[str, str] = {}
    _read(wanted.code, file, texts)
    more = [f"{name}\n{without_credentials(text)}" for name, text in texts.items() if name != file]
    lines = [line.strip() for text in texts.values() for line in text.splitlines()]
    if any(_EDITABLE.match(line) for line in lines):
        raise _bad(file, "it has an editable install (-e): name the folder without -e")
    if any(map(_is_from_the_code, lines)):
        more.append(f"code {wanted.payload['code_root']}")
    return Requirements(text=texts[file], file=file, more=tuple(more))


def _read(code: Path, name: str, texts: dict[str, str]) -> None:
    """The text of a file in the code folder, and of those that it includes."""
    if name in texts:
        return
    if len(texts) >= INCLUDES_MAX:
        raise _bad(name, f"more than {INCLUDES_MAX} files are included")
    path = (code / name).resolve()
    if code.resolve() not in path.parents or not path.is_file():
        raise _bad(name, "there is no such file in the code folder")
    try:
        texts[name] = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(name, "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)) from error
    for line in texts[name].splitlines():
        found = _INCLUDE.match(line.strip())
        if found and "://" not in found[1]:
            _read(code, os.path.normpath(Path(name).parent / found[1]), texts)


def _is_from_the_code(line: str) -> bool:
    """Whether a line installs what lies in the code folder, so that all of it decides."""
    if found := _FOUND_IN.match(line):
        return "://" not in found[1] and not found[1].startswith("/")
    return (
        line == "."
        or line.startswith(("./", "../", "file:."))
        or (bool(_ARCHIVE.match(line)) and "://" not in line)
    )


def _bad(name: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"requirements {name}: {why}", kind="bad_requirements")


# --- making one ---


def _made(wanted: Wanted, requirements: Requirements, below: Interpreter, key: str) -> int:
    """Make the environment unless it is there; returns the lock on it, which is shared from then on."""
    folder = environments_folder(wanted.home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Whoever uses it shares the lock for long: to wait until nobody does, in order to make it, would be to wait for them.
        while not (_has(lock, fcntl.LOCK_SH) and (folder / key / READY_FILE).exists()):
            if not _has(lock, fcntl.LOCK_EX):
                wanted.check()
                time.sleep(LOCK_POLL_SECONDS)
            elif not (folder / key / READY_FILE).exists():
                _make(wanted, requirements, below, key)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _has(lock: int, kind: int) -> bool:
    """Try to have a lock; one of another kind is given up first."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make(wanted: Wanted, requirements: Requirements, below: Interpreter, key: str) -> None:
    folder = environments_folder(wanted.home)
    job = str(wanted.payload["job"]["id"])
    failure = folder / f"{key}.failed"
    told: dict[str, str] = {}
    with suppress(OSError, ValueError):
        told = json.loads(failure.read_text())
    if told.get("job") == job:  # another worker of the same job tried just now
        raise InvalidInputError(told["why"], kind="bad_requirements")
    wanted.log(f"making the Python environment {key}", "trunkline")
    remove_tree(folder / key)
    try:
        _build(wanted, requirements, below, folder / key)
    except InvalidInputError as error:
        remove_tree(folder / key)
        failure.write_text(json.dumps({"job": job, "why": str(error)}))
        raise
    except BaseException:
        remove_tree(folder / key)
        raise
    failure.unlink(missing_ok=True)
    unused_days = float(wanted.payload["environment"].get("unused_days") or 0)
    if unused_days:
        for name in remove_unused(wanted.home, unused_days * 86400):
            wanted.log(f"removed the Python environment {name}: unused for {unused_days:g} days", "trunkline")


def _build(wanted: Wanted, requirements: Requirements, below: Interpreter, final: Path) -> None:
    started = time.monotonic()
    box = _box(wanted, below, final)
    try:
        seen_home = Path(box.seen_home)
        target = final if box.mode == "paths" else box.private_home / "environments" / final.name
        target.parent.mkdir(parents=True, exist_ok=True)
        cwd = seen_home / "code"
        if requirements.file and wanted.code is not None:
            _copy(wanted.code, box.private_home / "code")
            file = requirements.file
        else:
            (box.private_home / "code" / "requirements.txt").write_text(requirements.text)
            file = "requirements.txt"
        for argv in _commands(wanted, below, final, file):
            ended = _run(wanted, box, argv, str(cwd))
            if ended.exit_code != 0:
                raise _failed(ended, requirements)
        _finish(target, requirements, below)
        if target != final:
            target.rename(final)
    finally:
        remove_tree(box.folder)
    wanted.log(f"made it in {time.monotonic() - started:.1f} s", "trunkline")


def _box(wanted: Wanted, below: Interpreter, final: Path) -> Box:
    home = wanted.home.resolve()
    needed = [Path(one) for one in (below.prefix, *below.paths, sys.prefix, *sys.path) if one]
    keep = dict.fromkeys(one.resolve() for one in needed if home in one.resolve().parents and one.exists())
    box = Box(
        folder=(wanted.scratch / f"making-{final.name}").resolve(), home=home, inputs=(), keep=tuple(keep),
        mode=wanted.mode,
    )  # fmt: skip
    remove_tree(box.folder)
    box.create()
    return box


def _copy(source: Path, target: Path) -> None:
    import shutil  # noqa: PLC0415 (once for each environment)

    shutil.copytree(source, target, dirs_exist_ok=True)


def _commands(wanted: Wanted, below: Interpreter, final: Path, file: str) -> Sequence[list[str]]:
    """Make it with the Python below; install with that one's pip, or with trunkline's, else with one of its own."""
    make = [below.python, "-I", "-m", "venv"]
    options = ["install", "--no-input", "--disable-pip-version-check", "--quiet", "-r", file]
    for python in dict.fromkeys((below.python, sys.executable)):
        if _run_quietly(wanted, [python, "-I", "-m", "pip", "--version"]):
            pip = [python, "-I", "-m", "pip", "--python", str(final / "bin" / "python"), *options]
            return [[*make, "--without-pip", str(final)], pip]
    return [[*make, str(final)], [str(final / "bin" / "python"), "-I", "-m", "pip", *options]]


def _run_quietly(wanted: Wanted, argv: list[str]) -> bool:
    import subprocess  # noqa: PLC0415 (once for each environment)

    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60, env=_variables(wanted))
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _run(wanted: Wanted, box: Box, argv: list[str], cwd: str) -> Ended:
    ended = run(
        box, argv, stdin_lines=(), env={**_variables(wanted), "TMPDIR": f"{box.seen_home}/tmp"}, cwd=cwd,
        on_line=wanted.log, interrupted=wanted.interrupted, timeout_seconds=BUILD_SECONDS_MAX, shown=without_credentials,
    )  # fmt: skip
    wanted.check()
    return ended


def _variables(wanted: Wanted) -> dict[str, str]:
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    own: Mapping[str, str] = wanted.payload["environment"]["env"]
    return {**env, **own, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _failed(ended: Ended, requirements: Requirements) -> InvalidInputError:
    said = re.sub(r"^exit code \d+(: )?", "", ended.reason) or f"exit code {ended.exit_code}"
    return _bad(requirements.file or "of the settings", f"they could not be installed: {said}")


def _finish(target: Path, requirements: Requirements, below: Interpreter) -> None:
    """What lies below it comes last in its search path, so that its own packages win."""
    (packages,) = target.glob("lib/python*/site-packages")
    (packages / BASE_FILE).write_text("".join(f"{path}\n" for path in below.paths))
    ready = {
        "python": below.name,
        "below": below.prefix,
        "requirements": without_credentials(requirements.text).splitlines(),
    }
    (target / READY_FILE).write_text(json.dumps(ready, indent=1))
