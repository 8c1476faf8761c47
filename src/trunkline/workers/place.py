"""Where a worker's datums run: one sandbox, made for a pipeline, cleaned after each command, made anew for another pipeline.

A fresh one is kept ready, so that the first datum does not wait for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trunkline.errors import UnavailableError
from trunkline.sdk.transport import Transport
from trunkline.users import User, user_of
from trunkline.workers.box import Box
from trunkline.workers.environments.base import Prepared, Wanted
from trunkline.workers.environments.choice import Environments
from trunkline.workers.inputs import retrying
from trunkline.workers.lease import TaskContext, WorkerEnvironment
from trunkline.workers.limits import Limits
from trunkline.workers.memory import MEMORY_BYTES, fits
from trunkline.workers.outputs import View
from trunkline.workers.quiet import Quiet
from trunkline.workers.sandbox import Sandbox, start_sandbox
from trunkline.workers.scratch import remove_tree
from trunkline.workers.variables import EnvFile, pipeline_variables, working_dir
from trunkline.workers.zygote import HOME_FOLDERS

NOT_LOOKED_AT = {"__pycache__"}
"""What running a program leaves beside it, and what does no harm to the next."""


class Place:
    """A sandbox and its folders. ``prepare`` before a set; ``clean`` after each command."""

    def __init__(self, environment: WorkerEnvironment, scratch: Path) -> None:
        self._environment = environment
        self._scratch = scratch
        self._number = 0
        self._spare: tuple[Sandbox, str] | None = None
        self._sandbox: Sandbox | None = None
        self._key = ""
        self._user: User | None = None
        self._code_root: str | None = None
        self._code: dict[str, tuple[int, ...]] = {}
        self._kept_inside: list[tuple[str, ...]] = []
        """Folders inside the data directory that commands see."""
        self._pristine = scratch / "code"
        self._output_is_empty = False
        """Somebody has just looked."""
        self._quiet: dict[str, Quiet] = {}
        """Folders in which commands write."""
        self._env_file: EnvFile | None = None
        self._environments = Environments()
        self.warning = ""
        """Why commands are not isolated, if they are not."""

    @property
    def sandbox(self) -> Sandbox:
        assert self._sandbox is not None, "it was prepared"
        return self._sandbox

    @property
    def box(self) -> Box:
        return self.sandbox.box

    @property
    def env_file(self) -> EnvFile:
        """``/pfs/.env``."""
        assert self._env_file is not None, "it was prepared"
        return self._env_file

    def warm_up(self) -> None:
        """Have a sandbox ready for whatever pipeline comes."""
        if self._spare is not None and not self._spare[0].is_alive:
            self._spare[0].close()
            self._spare = None
        if self._spare is None:
            self._spare = start_sandbox(self._environment.sandbox, self._new_box())

    def _new_box(self) -> Box:
        self._number += 1
        folder = (self._scratch / f"box-{self._number}").resolve()
        box = Box(folder=folder, home=self._environment.home.resolve())
        box.create()
        return box

    def wants_another(self, payload: Mapping[str, Any]) -> bool:
        """Whether the sandbox that there is cannot be used for these datums."""
        if _key(payload) != self._key or self._sandbox is None or not self._sandbox.is_alive:
            return True
        return self.box.memory is not None and not fits(payload)  # one on the disk is good for all

    def prepare(self, context: TaskContext, payload: Mapping[str, Any]) -> bool:
        """Be ready for a pipeline's datums; returns whether the sandbox is a new one.

        :raises TrunklineError: if this machine cannot give what the pipeline asks for.
        """
        is_new = self.wants_another(payload)
        if is_new:
            self.discard()
            self._make(payload, self._environment_of(context, payload))
            self._key = _key(payload)
        self.box.note_server(context.link.url)
        self._lay_code(context, payload["code_root"])
        return is_new

    def _environment_of(self, context: TaskContext, payload: Mapping[str, Any]) -> Prepared:
        self.warm_up()
        assert self._spare is not None, "it was made just now"
        root = payload["code_root"]
        if root is not None:
            self._fetch_code(context, root)
        wanted = Wanted(
            home=self._environment.home, scratch=self._scratch, mode=self._spare[0].box.mode, payload=payload,
            code=None if root is None else self._pristine / root, log=context.log, interrupted=context.interrupted,
            check=context.check,
        )  # fmt: skip
        return self._environments.prepare(wanted)

    def _make(self, payload: Mapping[str, Any], prepared: Prepared) -> None:
        self._user = user_of(payload["transform"].get("user")) if prepared.start is None else None
        assert self._spare is not None, "there was one a moment ago"
        if prepared.start is None:
            sandbox, self.warning = self._spare
            self._spare = None
        else:
            sandbox, self.warning = prepared.start(self._new_box()), ""
        mode = sandbox.box.mode
        if mode == "paths" and payload["secret_files"]:
            sandbox.close()
            raise UnavailableError(
                "secrets with a mount_path need a private mount namespace, which this system does not give: "
                "use env_var instead",
                kind="no_sandbox",
            )
        box = dataclasses.replace(
            sandbox.box,
            keep=tuple(self._kept(prepared)),
            secret_files=payload["secret_files"],
            user=self._user,
            memory=sandbox.lay_in_memory(MEMORY_BYTES) if mode == "namespace" and fits(payload) else None,
        )
        self._sandbox = sandbox
        self._env_file = EnvFile(box)
        written = {
            "out": box.out,
            "home": box.private_home,
            **{name: box.private_home / name for name in ("tmp", "code")},
        }
        self._quiet = {name: Quiet(folder, stays=mode == "namespace") for name, folder in written.items()}
        self._kept_inside = [path.relative_to(box.home).parts for path in box.keep]
        self._give_to_user(box)
        sandbox.configure(box, pipeline_variables(payload, box, prepared), Limits.of(payload.get("limits")))
        box.write_stdin(payload["transform"]["stdin"])
        box.write_stdin(payload["transform"]["err_stdin"], "err_stdin")

    def _kept(self, prepared: Prepared) -> Iterator[Path]:
        """Folders inside the data directory that commands need."""
        home = self._environment.home.resolve()
        needed = [*prepared.keep, Path(sys.prefix), *(Path(one) for one in sys.path if one)]
        found = (path.resolve() for path in needed)
        return iter(dict.fromkeys(path for path in found if home in path.parents and path.exists()))

    def _give_to_user(self, box: Box) -> None:
        if self._user is not None:
            for place in [box.out, *(box.private_home / name for name in ("", "code", "tmp"))]:
                os.chown(place, self._user[0], self._user[1])

    # --- code ---

    def _lay_code(self, context: TaskContext, root: str | None) -> None:
        if root == self._code_root and (root is None or self._code):
            return
        if root is not None:
            self._fetch_code(context, root)
        self._code_root = root
        self._restore_code()

    def _fetch_code(self, context: TaskContext, root: str) -> None:
        if (self._pristine / root).is_dir():
            return
        remove_tree(self._pristine)
        target = self._pristine / f"{root}.new"

        def fetch(client: Transport) -> None:
            client.download_folder(f"/v1/filesets/{root}/archive", target)

        target.mkdir(parents=True)
        retrying(context, fetch)
        target.rename(self._pristine / root)

    def _restore_code(self) -> None:
        """A private copy, as it was stored."""
        folder = self.box.private_home / "code"
        _empty(folder)
        if self._code_root is not None:
            shutil.copytree(self._pristine / self._code_root, folder, dirs_exist_ok=True)
            if self._user is not None:
                for where, folders, names in os.walk(folder):
                    for name in (*folders, *names):
                        os.chown(os.path.join(where, name), *self._user[:2])  # noqa: PTH118
        self._code = _fingerprint(folder)

    # --- between commands ---

    def view(self) -> View:
        """How commands see paths; good as long as the sandbox."""
        return View(self.box)

    def clean(self) -> None:
        """Nothing that a command wrote is seen by the next, as far as it wrote it to its own folders."""
        self.clean_output()
        home, tmp, code = (self._quiet[name] for name in ("home", "tmp", "code"))
        if self._kept_inside or not home.holds():
            self._clean_home(home.path)
        if not tmp.holds():
            _empty(tmp.path)
        if (self._code or not code.holds()) and _fingerprint(code.path) != self._code:
            self._restore_code()

    def _clean_home(self, home: str) -> None:
        missing = set(HOME_FOLDERS)
        for entry in os.scandir(home):
            if entry.name in missing and entry.is_dir(follow_symlinks=False):
                missing.discard(entry.name)
            else:  # without namespaces, even a link in the place of one of our folders
                _remove_around(entry, [parts[1:] for parts in self._kept_inside if parts[0] == entry.name])
        for name in missing:
            os.mkdir(f"{home}/{name}")  # noqa: PTH102

    def clean_output(self) -> None:
        """No output is left."""
        if not self._output_is_empty:
            _empty(self.box.out)
        self._output_is_empty = False

    def output_is_empty(self) -> bool:
        """Whether a command left nothing in ``/pfs/out``."""
        out = self._quiet["out"]
        self._output_is_empty = out.holds() or not os.listdir(out.path)  # noqa: PTH208
        return self._output_is_empty

    def cwd(self, payload: Mapping[str, Any]) -> str:
        """Where commands begin."""
        return working_dir(payload, self.box)

    def discard(self) -> None:
        """End the sandbox, with all that runs in it."""
        if self._env_file is not None:
            self._env_file.close()
            self._env_file = None
        for quiet in self._quiet.values():
            quiet.close()
        self._quiet.clear()
        if self._sandbox is not None:
            self._sandbox.close()
            remove_tree(self._sandbox.box.folder)
            self._sandbox = None
            self._key, self._code, self._code_root = "", {}, None

    def close(self) -> None:
        """End all."""
        self.discard()
        self._environments.close()
        if self._spare is not None:
            self._spare[0].close()
            self._spare = None


def _key(payload: Mapping[str, Any]) -> str:
    """What a sandbox is made for."""
    wanted = [
        payload["transform"], payload["environment"], payload["secrets_env"], payload["secret_files"],
        payload.get("limits"), payload["code_root"] if payload["transform"].get("requirements") else bool(payload["code_root"]),
    ]  # fmt: skip
    return json.dumps(wanted, sort_keys=True, default=str)


def _fingerprint(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """What tells whether anything was written there."""
    found: dict[str, tuple[int, ...]] = {}
    waiting = [str(folder)]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if entry.name in NOT_LOOKED_AT:
                continue
            status = entry.stat(follow_symlinks=False)
            is_dir = entry.is_dir(follow_symlinks=False)
            times = () if is_dir else (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            found[entry.path] = (status.st_ino, status.st_mode, *times)
            if is_dir:
                waiting.append(entry.path)
    return found


def _empty(folder: str | Path) -> None:
    for entry in os.scandir(folder):
        _remove(entry)


def _remove_around(entry: os.DirEntry[str], kept: list[tuple[str, ...]]) -> None:
    """All but the way to what is mounted in there: with its place, a mount would go from the sandbox, too."""
    if not kept:
        _remove(entry)
    elif () not in kept and entry.is_dir(follow_symlinks=False):
        for inner in os.scandir(entry.path):
            _remove_around(inner, [parts[1:] for parts in kept if parts[0] == inner.name])


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        remove_tree(Path(entry.path))
    else:
        os.unlink(entry.path)  # noqa: PTH108
