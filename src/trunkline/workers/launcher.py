"""Puts itself into a private view of the file system, then becomes the user's command.

Run as ``python -I -S launcher.py PLAN`` between fork and exec, so that a worker with many threads never has to do any of
this in a forked copy of itself. Imports nothing of trunkline. PLAN is a JSON file (see ``sandbox.Plan``). If anything goes
wrong, one JSON object is written to the file descriptor ``plan["status_fd"]``, which is closed by a successful exec.

What the command sees: the host's files, except that ``/pfs`` holds its inputs (read-only) and ``/pfs/out``, that the
data directory is covered by a small private folder, and that secrets lie where they are asked for. What it may not do:
take that view apart. As root it therefore gives up the capabilities with which it could; as somebody else, it has none
after exec, and mounts that it inherits are locked for it.
"""

# Importing pathlib and contextlib would double the time that this takes.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH115, PTH208, PTH211, SIM105

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = (
    1 << 10,
    1 << 11,
    1 << 12,
    1 << 14,
    1 << 18,
    1 << 21,
)
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
SIGKILL = 9
KEPT_FLAGS = {
    os.ST_NOSUID: MS_NOSUID, os.ST_NODEV: MS_NODEV, os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME, os.ST_NODIRATIME: MS_NODIRATIME, os.ST_RELATIME: MS_RELATIME,
} if sys.platform == "linux" else {}  # fmt: skip
"""A remount in a user namespace must repeat the flags that its mount already has."""
DROPPED_CAPABILITIES = (2, 16, 17, 18, 19, 20, 21, 22, 25, 27, 38, 39, 40)
"""dac_read_search, sys_module, sys_rawio, sys_chroot, sys_ptrace, sys_pacct, sys_admin, sys_boot, sys_time, mknod, perfmon,
bpf, checkpoint_restore: each a way out of the view or into another process."""
COMMAND_NOT_FOUND, NOT_EXECUTABLE, NO_SANDBOX = 127, 126, 125

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    def raw(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    check(
        libc.mount(raw(source), raw(target), raw(kind), ctypes.c_ulong(flags), raw(data)), f"mount {target}"
    )


def bind(source: str, target: str) -> None:
    # MS_REC: in a user namespace a mount may not be bound without what is mounted below it.
    mount(source, target, None, MS_BIND | MS_REC)


def make_read_only(target: str) -> None:
    found = os.statvfs(target).f_flag
    kept = sum(ours for theirs, ours in KEPT_FLAGS.items() if found & theirs)
    mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def enter_namespaces() -> None:
    """A mount namespace of its own; with a user namespace where that is needed to be allowed to."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and libc.unshare(CLONE_NEWNS) == 0:
        return
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def build_root(root: str) -> None:
    """A new root of which every top-level entry is the host's own, but ``/pfs``."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    # The one that holds ``root`` comes first: binding it later would copy all that is mounted there by then.
    first = root.split("/")[1]
    for name in sorted(os.listdir("/"), key=lambda name: name != first):
        if name == "pfs":
            continue
        mirror("/" + name, root + "/" + name)


def mirror(source: str, target: str) -> None:
    """Make ``target`` show ``source``."""
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    elif stat.S_ISREG(mode):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    else:
        return
    try:
        bind(source, target)
    except PermissionError:
        pass  # a place that may not be shown stays empty


def make_folder(root: str, path: str, own: set[str]) -> None:
    """Make the directory ``path`` exist below ``root`` without touching the host's: the directory above it becomes a tmpfs
    with the same entries. ``own`` are the directories that are not the host's."""
    real = root + path
    if os.path.isdir(real):
        return
    parent = path.rsplit("/", 1)[0]
    make_folder(root, parent, own)
    if root + parent not in own:
        cover_with_copy(root + parent)
        own.add(root + parent)
    os.mkdir(real)
    own.add(real)


def cover_with_copy(folder: str) -> None:
    old = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    entries = os.listdir(folder)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for name in entries:
        mirror(f"/proc/self/fd/{old}/{name}", f"{folder}/{name}")
    os.close(old)


def build_view(plan: dict[str, Any]) -> None:
    root = plan["root"]
    build_root(root)
    os.mkdir(root + "/pfs")
    for name, source in plan["pfs"]:
        target = f"{root}/pfs/{name}"
        os.mkdir(target)
        bind(source, target)
        if name != "out":
            make_read_only(target)
    kept = [(path, os.open(path, os.O_RDONLY)) for path in plan["keep"]]
    if plan["home"]:
        bind(plan["private_home"], root + plan["home"])
    for path, source in kept:
        os.makedirs(root + path, exist_ok=True)
        bind(f"/proc/self/fd/{source}", root + path)
        make_read_only(root + path)
        os.close(source)
    own = {root}
    for path, source in plan["folders"]:
        make_folder(root, path, own)
        bind(source, root + path)
        make_read_only(root + path)
    enter_root(root)


def enter_root(root: str) -> None:
    # pivot_root(".", "."): the old root lies over the new one, and is then taken away.
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def give_up_powers() -> None:
    for capability in DROPPED_CAPABILITIES:
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)


def main() -> None:
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    status_fd = plan["status_fd"]

    def fail(kind: str, message: str, code: int) -> None:
        os.write(status_fd, json.dumps({"kind": kind, "message": message}).encode())
        os._exit(code)

    try:
        if plan["mode"] == "namespace":
            enter_namespaces()
            build_view(plan)
            if os.geteuid() == 0:
                give_up_powers()
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL), 0, 0, 0)
            if os.getppid() != plan["parent"]:
                os._exit(NO_SANDBOX)  # the worker died before we asked to die with it
    except (OSError, AttributeError) as error:
        fail("no_sandbox", str(error), NO_SANDBOX)
    if plan["probe"]:
        os._exit(0)
    try:
        os.chdir(plan["cwd"])
    except OSError as error:
        fail(
            "bad_working_dir",
            f"the working directory {plan['cwd']} cannot be entered: {error.strerror}",
            NOT_EXECUTABLE,
        )
    os.set_inheritable(status_fd, False)
    argv = plan["argv"]
    try:
        os.execvpe(argv[0], argv, os.environ)
    except (FileNotFoundError, NotADirectoryError):
        fail("command_not_found", f"command not found: {argv[0]}", COMMAND_NOT_FOUND)
    except OSError as error:
        if "/" not in argv[0] and not any(
            os.path.exists(f"{place}/{argv[0]}") for place in os.get_exec_path()
        ):
            fail(
                "command_not_found", f"command not found: {argv[0]}", COMMAND_NOT_FOUND
            )  # PATH has a locked folder
        fail("command_not_executable", f"{argv[0]} cannot be executed: {error.strerror}", NOT_EXECUTABLE)


if __name__ == "__main__":
    main()
