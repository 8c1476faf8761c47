"""The process that starts user commands: it enters a private view of the system once, and then runs command after command.

Run as ``python -I -S zygote.py SOCKET OUT ERR``, with a socket to its worker and what commands get as stdout and stderr.
Imports nothing of trunkline. Messages are JSON
objects, each after four bytes of length; every one but ``kill`` is answered by one. ``start`` makes the namespaces and the
new root, ``lay_in_memory`` puts inputs there, ``configure`` does what a pipeline asks for (and there is no way back), ``run``
starts a command and is answered when it and everything it started is gone.

What a command sees: the host's files, except that ``/pfs`` holds its inputs (read-only) and ``/pfs/out``, that the data
directory is covered by a small private folder, and that secrets lie where they are asked for. It is in a PID namespace whose
first process is this one: it sees no process but its own, none of its own outlives it, and all go when the worker goes. What
it may not do is take that view apart. As root it therefore has no capability with which it could; as somebody else, it has
none after exec, and mounts that it inherits are locked for it.
"""

# Importing pathlib, contextlib and typing would double the time that this takes to start.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH113, PTH115, PTH208, PTH211, SIM105

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_SLAVE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 19, 1 << 21
MNT_DETACH, SIOCSIFFLAGS, IFF_UP = 2, 0x8914, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
KEPT_FLAGS = {
    os.ST_NOSUID: MS_NOSUID, os.ST_NODEV: MS_NODEV, os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME, os.ST_NODIRATIME: MS_NODIRATIME, os.ST_RELATIME: MS_RELATIME,
} if sys.platform == "linux" else {}  # fmt: skip
"""A remount in a user namespace must repeat the flags that its mount already has."""
DROPPED_CAPABILITIES = (2, 16, 17, 18, 19, 20, 21, 22, 25, 27, 38, 39, 40)
"""dac_read_search, sys_module, sys_rawio, sys_chroot, sys_ptrace, sys_pacct, sys_admin, sys_boot, sys_time, mknod, perfmon,
bpf, checkpoint_restore: each a way out of the view or into another process."""
LENGTH = struct.Struct("!I")
HOME_FOLDERS = ("run", "code", "tmp")
COMMAND_NOT_FOUND, NOT_EXECUTABLE, STRAY_ROUNDS_MAX = 127, 126, 100

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# --- the view ---


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    given = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    check(libc.mount(*given[:3], ctypes.c_ulong(flags), given[3]), f"mount {target}")


def bind(source: str, target: str) -> None:
    # MS_REC: in a user namespace a mount may not be bound without what is mounted below it.
    mount(source, target, None, MS_BIND | MS_REC)


def make_read_only(target: str) -> None:
    found = os.statvfs(target).f_flag
    kept = sum(ours for theirs, ours in KEPT_FLAGS.items() if found & theirs)
    mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def enter_namespaces(flags: int) -> None:
    """Namespaces of its own; with a user namespace where that is needed to be allowed to."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and libc.unshare(flags) == 0:
        return
    check(libc.unshare(CLONE_NEWUSER | flags), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def build_root(root: str) -> None:
    """A new root of which every top-level entry is the host's own, but ``/pfs``. What is mounted on the host later appears
    (and what is unmounted there is not held), but nothing that is mounted here appears there."""
    mount(None, "/", None, MS_REC | MS_SLAVE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    # The one that holds ``root`` comes first: binding it later would copy all that is mounted there by then.
    first = root.split("/")[1]
    for name in sorted({*os.listdir("/")} - {"pfs"}, key=lambda name: name != first):
        mirror("/" + name, root + "/" + name)


def lay_in_memory(place: str, out: str, size: int) -> int:
    """Make of ``/pfs`` a read-only folder of a file system in memory, but for the output; returns a handle to write there."""
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=755")
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    os.mkdir(place + "/store")
    os.makedirs(place + "/pfs/out")
    show_pfs(place + "/pfs", out, place)
    return handle


def show_pfs(pfs: str, out: str, target: str) -> None:
    bind(pfs, target)
    make_read_only(target)
    bind(out, target + "/out")


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


def build_view(plan: dict[str, Any], root: str) -> None:
    """What depends on the pipeline, and then into it."""
    kept = [(path, os.open(path, os.O_RDONLY)) for path in plan["keep"]]
    for target in plan["homes"]:
        if not os.path.isdir(root + target):
            os.mkdir(root + target)
        bind(plan["private_home"], root + target)
        for name in HOME_FOLDERS:  # mounted each, so that a command cannot put a link in their place
            source_path = f"{plan['private_home']}/{name}"
            if os.path.isdir(source_path):
                bind(source_path, f"{root}{target}/{name}")
    for path, source in kept:
        os.makedirs(root + path, exist_ok=True)
        bind(f"/proc/self/fd/{source}", root + path)
        make_read_only(root + path)
        os.close(source)
    for target in plan["homes"]:
        make_read_only(f"{root}{target}/run")
    own = {root}
    for path, files in plan["secrets"]:
        make_folder(root, path, own)
        show_secrets(root + path, files)
    if plan["lock_cgroups"] or os.geteuid() == 0:
        lock_kernel(root)
    enter_root(root)


def show_secrets(folder: str, files: dict[str, str]) -> None:
    """In memory: they are never on a disk, and go with the sandbox."""
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
    for name, value in files.items():
        with open(f"{folder}/{name}", "w") as file:
            file.write(value)
    make_read_only(folder)


def lock_kernel(root: str) -> None:
    """What root could turn in there holds for the whole machine: which program a crash starts, say; and its own limits."""
    for switches in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        if os.path.exists(place := f"{root}/proc/{switches}"):
            bind(place, place)
            make_read_only(place)
    with open("/proc/self/mountinfo") as file:
        places = [line.split()[4] for line in file]
    for place in places:
        if f"{place}/".startswith((f"{root}/sys/", f"{root}/proc/sys/")) and os.path.ismount(place):
            make_read_only(place)


def enter_root(root: str) -> None:
    # pivot_root(".", "."): the old root lies over the new one, and is then taken away.
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def leave_network() -> None:
    """A network namespace with nothing in it but its own loopback."""
    check(libc.unshare(CLONE_NEWNET), "unshare network")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def give_up_powers(plan: dict[str, Any]) -> None:
    """What this process keeps for itself ends with each command's exec."""
    for name, value in plan["rlimits"].items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (wanted, wanted))
    if plan["gives_up"] and sys.platform == "linux" and os.geteuid() == 0:
        for capability in DROPPED_CAPABILITIES:
            libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    if plan["user"] is not None:
        uid, gid, groups = plan["user"]
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        if sys.platform == "linux":
            libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
            libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0)


class Line:
    """Messages over a socket, each perhaps with one file descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = b""
        self._files: list[int] = []

    def receive(self) -> tuple[dict[str, Any], int | None]:
        """The next message. :raises EOFError: when the worker is gone."""
        while True:
            if len(self.buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(self.buffer)[0]
                if len(self.buffer) >= end:
                    message = json.loads(self.buffer[LENGTH.size : end].decode())
                    self.buffer = self.buffer[end:]
                    return message, self._files.pop(0) if message.get("has_file") else None
            data, files, _, _ = socket.recv_fds(self.socket, 65536, 4)
            if not data:
                raise EOFError
            self.buffer += data
            self._files += files

    def send(self, message: dict[str, Any], *files: int) -> None:
        data = json.dumps(message).encode()
        data = LENGTH.pack(len(data)) + data
        if files:
            data = data[socket.send_fds(self.socket, [data], files) :]
        self.socket.sendall(data)


# --- commands ---


class Commands:
    """One command at a time."""

    def __init__(self, line: Line, out: int, err: int, *, owns_all: bool) -> None:
        self._line = line
        self._out, self._err = out, err
        self._owns_all = owns_all
        """Whether every process that it can see but itself is one that it has started."""
        self.env: dict[str, str] = {}
        """Of all commands."""
        self._common: dict[str, str] = {}
        self._found: dict[tuple[str, str], str] = {}
        self._woken, waker = os.pipe()
        for end in (self._woken, waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        self._poll.register(line.socket.fileno(), select.POLLIN)

    def run(self, message: dict[str, Any], stdin: int | None) -> dict[str, Any]:
        """Start it, and see it to its end. Without a ``stdin``, there is nothing to be read."""
        self._common = message.get("common", self._common)
        env = {**self.env, **self._common, **message["env"]}
        try:
            os.chdir(message["cwd"])
        except OSError as error:
            why = f"the working directory {message['cwd']} cannot be entered: {error.strerror}"
            return {"code": NOT_EXECUTABLE, "kind": "bad_working_dir", "message": why}
        argv, started = message["argv"], time.monotonic()
        opened: tuple[Any, ...] = (os.POSIX_SPAWN_DUP2, stdin, 0)
        if stdin is None:
            opened = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        try:
            pid = os.posix_spawn(
                self._program(argv[0], env.get("PATH", os.defpath)), argv, env, setsid=True, setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
                file_actions=[opened, (os.POSIX_SPAWN_DUP2, self._out, 1), (os.POSIX_SPAWN_DUP2, self._err, 2)],
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError):
            why = f"command not found: {argv[0]}"
            return {"code": COMMAND_NOT_FOUND, "kind": "command_not_found", "message": why}
        except (OSError, ValueError) as error:
            why = f"{argv[0]} cannot be executed: {getattr(error, 'strerror', None) or error}"
            return {"code": NOT_EXECUTABLE, "kind": "command_not_executable", "message": why}
        try:
            status, cpu_seconds, memory = self._wait(pid)
        finally:  # also if the worker is gone
            others = self._end_all(pid)
        for handle in (self._out, self._err):
            os.set_blocking(handle, True)  # what one command says of the pipes must not be true for the next
        return {
            "code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started,
            "cpu_seconds": cpu_seconds + others, "memory_bytes": memory,
        }  # fmt: skip

    def _program(self, name: str, path: str) -> str:
        """Where a command is, as a shell looks for it."""
        if "/" in name:
            return name
        if (name, path) not in self._found:
            for place in path.split(os.pathsep):
                candidate = f"{place or '.'}/{name}"
                if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                    self._found[name, path] = candidate
                    break
            else:
                raise FileNotFoundError
        return self._found[name, path]

    def _wait(self, pid: int) -> tuple[int, float, int]:
        """Until the command ends, by itself or because the worker says so."""
        line = self._line.socket.fileno()
        others = 0.0
        while True:
            for ready, _ in [(line, 0)] if self._line.buffer else self._poll.poll():
                if ready == line:
                    message, _ = self._line.receive()
                    if message["do"] == "kill":
                        self._kill(pid)
                else:
                    os.read(self._woken, 512)  # whatever ended before that is found now
            found = -1
            while found:
                found, status, usage = os.wait4(-1, os.WNOHANG)
                if found == pid:
                    unit = 1 if sys.platform == "darwin" else 1024
                    return status, others + usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit
                others += usage.ru_utime + usage.ru_stime

    def _kill(self, pid: int) -> None:
        try:
            if self._owns_all:
                os.kill(-1, signal.SIGKILL)
            else:
                os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def _end_all(self, pid: int) -> float:
        """Leave nothing of a command; the CPU seconds of what was left."""
        seconds = 0.0 if self._owns_all else self._end_strays(pid)
        while True:
            try:
                found, _, usage = os.wait4(-1, os.WNOHANG)
                if not found:  # there are some, and they run
                    if not self._owns_all:
                        return seconds
                    self._kill(pid)
                    _, _, usage = os.wait4(-1, 0)
                seconds += usage.ru_utime + usage.ru_stime
            except ChildProcessError:
                return seconds

    def _end_strays(self, pid: int) -> float:
        """Without a namespace: the group, and what left it and was inherited by this process when its parent died."""
        self._kill(pid)
        seconds = 0.0
        for _ in range(STRAY_ROUNDS_MAX):
            for one in (strays := children_of(os.getpid())):
                try:
                    os.kill(one, signal.SIGKILL)
                    _, _, usage = os.wait4(one, 0)
                    seconds += usage.ru_utime + usage.ru_stime
                except (ProcessLookupError, PermissionError, ChildProcessError):
                    pass
            if not strays:
                break
        return seconds


def children_of(parent: int) -> list[int]:
    """The processes that a process has started or inherited; none where the system does not say."""
    try:
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


# --- life ---


def start(line: Line, plan: dict[str, Any]) -> bool:
    """Into the namespaces. Returns in the process that serves, and says whether all it sees is its own."""
    if not plan["own_pids"] and sys.platform == "linux":
        libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    if plan["mode"] != "namespace":
        return False
    enter_namespaces(CLONE_NEWNS | (CLONE_NEWPID if plan["own_pids"] else 0))
    if plan["own_pids"]:
        if first := os.fork():
            wait_for(first, line)
        # If that one is gone already, so is the worker, and the socket says so.
        libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        assert os.getpid() == 1, "nothing else was started in this namespace"
    root = plan["root"]
    build_root(root)
    os.mkdir(root + "/pfs")
    show_pfs(plan["pfs"], plan["out"], root + "/pfs")
    if plan["own_pids"]:
        mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    return bool(plan["own_pids"])


def wait_for(first: int, line: Line) -> None:
    """The one outside the namespace has nothing to do but to be the first process's parent, and to end with the worker."""
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    line.socket.close()
    os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)


def main() -> None:
    line = Line(socket.socket(fileno=int(sys.argv[1])))
    for number in map(int, sys.argv[1:]):
        os.set_inheritable(number, False)
    plan: dict[str, Any] = {}
    commands = None
    try:
        while True:
            message, file = line.receive()
            do = message["do"]
            try:
                if do == "start":
                    plan = message
                    commands = Commands(line, *map(int, sys.argv[2:4]), owns_all=start(line, plan))
                    line.send({"pid": os.getpid()})
                elif do == "lay_in_memory":
                    handle = lay_in_memory(plan["root"] + "/pfs", plan["out"], message["bytes"])
                    line.send({}, handle)
                    os.close(handle)
                elif do == "configure":
                    assert commands is not None, "it was started"
                    configure(commands, message, plan)
                    line.send({})
                elif do == "run":
                    assert commands is not None, "it was started"
                    line.send(commands.run(message, file))
                    if file is not None:
                        os.close(file)
            except (OSError, AttributeError, ValueError) as error:
                line.send({"kind": "no_sandbox", "message": str(error)})
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # and with the first process of a namespace go all others


def configure(commands: Commands, message: dict[str, Any], plan: dict[str, Any]) -> None:
    if message["no_network"]:
        leave_network()
    if plan["mode"] == "namespace":
        build_view(message, plan["root"])
    give_up_powers(message)
    commands.env = message["env"]


if __name__ == "__main__":
    main()
