"""Covers the data directory, then becomes the replica: ``python -I -S hide.py CONFIG``.

A handler in an archive, and whatever a pickle runs, is somebody's code; the data directory holds the owner's token and
everybody's data. On Linux the replica therefore gets a mount namespace of its own in which only its own folder, its model
(read-only) and its Python are left of that directory. Imports nothing of trunkline. The setting ``sandbox`` decides: ``paths``
covers nothing, ``namespace`` starts no replica that cannot be covered, ``auto`` says so in its log and goes on.

The view is built aside and put over the directory in one last step, so an attempt that fails half way has changed nothing.
"""

# Importing pathlib would double the time that this takes.
# ruff: noqa: PTH103

from __future__ import annotations

import ctypes
import json
import os
import sys

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC = 1 << 10, 1 << 11, 1 << 12, 1 << 14
MS_PRIVATE, MS_RELATIME = 1 << 18, 1 << 21
PR_CAPBSET_DROP = 24
KEPT_FLAGS = {
    os.ST_NOSUID: MS_NOSUID, os.ST_NODEV: MS_NODEV, os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME, os.ST_NODIRATIME: MS_NODIRATIME, os.ST_RELATIME: MS_RELATIME,
} if sys.platform == "linux" else {}  # fmt: skip
"""A remount in a user namespace must repeat the flags that its mount already has."""
DROPPED_CAPABILITIES = (2, 16, 17, 18, 19, 20, 21, 22, 25, 27, 38, 39, 40)
"""dac_read_search, sys_module, sys_rawio, sys_chroot, sys_ptrace, sys_pacct, sys_admin, sys_boot, sys_time, mknod, perfmon,
bpf, checkpoint_restore: each a way out of the view or into another process."""
NO_SANDBOX = 125

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    def raw(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    done = libc.mount(raw(source), raw(target), raw(kind), ctypes.c_ulong(flags), None)
    check(done, f"mount {target}")


def enter_namespaces() -> None:
    """A mount namespace of its own; with a user namespace where that is needed to be allowed to."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0 or libc.unshare(CLONE_NEWNS) != 0:
        check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def cover(home: str, view: str, writable: list[str], readable: list[str]) -> None:
    """Put a folder over ``home`` that holds nothing but some of its own folders. ``view`` is where it is built."""
    mount("tmpfs", view, "tmpfs", MS_NOSUID | MS_NODEV)
    for folder in (*writable, *readable):
        place = view + folder[len(home) :]
        os.makedirs(place, exist_ok=True)
        mount(folder, place, None, MS_BIND | MS_REC)
        if folder in readable:
            found = os.statvfs(place).f_flag
            kept = sum(ours for theirs, ours in KEPT_FLAGS.items() if found & theirs)
            mount(None, place, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)
    mount(view, home, None, MS_BIND | MS_REC)


def hide(config: dict[str, Any]) -> str:
    """Why it could not be done; empty if it was."""
    if sys.platform != "linux":
        return "it is not Linux"
    try:
        enter_namespaces()
        cover(config["home"], config["view"], [config["work_dir"]], [config["model_dir"], *config["keep"]])
        os.chdir(config["work_dir"])  # the old working directory would be a way back
        if os.geteuid() == 0:
            for capability in DROPPED_CAPABILITIES:
                libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


def main(config_file: str) -> None:
    with open(config_file) as file:
        config = json.load(file)
    problem = hide(config) if config["sandbox"] != "paths" else ""
    if problem:
        words = f"this system gives no private mount namespace ({problem})"
        must = config["sandbox"] == "namespace"
        os.write(2, f"{'error' if must else 'warning'}: the data directory is not hidden: {words}\n".encode())
        if must:
            os._exit(NO_SANDBOX)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "trunkline.serving.replica.main", config_file])


if __name__ == "__main__":
    main(sys.argv[1])
