"""What user code sees and cannot see, with real processes: as the user who runs the tests, and as an ordinary one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import folder_on_disk
from trunkline.errors import InvalidInputError, UnavailableError
from trunkline.workers.limits import Limits, OomKills, make_group, oom_kills_around
from trunkline.workers.outputs import files_of
from trunkline.workers.sandbox import Box, Command, Ended, choose_mode, run, start_sandbox

pytestmark = pytest.mark.slow

NOBODY = 65534


tmp_path = pytest.fixture(folder_on_disk)  # links into /dev are no outputs


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / "run" / "scratch").mkdir(parents=True)
    (folder / "token").write_text("SECRET")
    return folder


@pytest.fixture
def box(home: Path) -> Box:
    mode, why_not = choose_mode("auto", home / "run" / "scratch")
    if mode != "namespace":
        pytest.skip(f"no private mount namespaces here: {why_not}")
    made = Box(folder=home / "run" / "scratch" / "try", home=home, inputs=("in",))
    made.create()
    (made.pfs / "in" / "a.txt").write_text("hello")
    return made


def sh(box: Box, script: str, **given: Any) -> tuple[Ended, list[str]]:
    lines: dict[str, list[str]] = {}
    ended = run(
        box, ["sh"], stdin_lines=script.splitlines(), env={"PATH": os.environ["PATH"]}, cwd="/",
        on_line=lambda text, stream: lines.setdefault(stream, []).append(text),
        interrupted=given.pop("interrupted", threading.Event()),
        timeout_seconds=given.pop("timeout_seconds", None),
    )  # fmt: skip
    return ended, [*lines.get("stdout", []), *lines.get("stderr", [])]  # the order between the two is chance


def test_pfs_is_there_inputs_are_read_only_and_nothing_is_left(box: Box) -> None:
    ended, lines = sh(
        box, "ls /pfs; cat /pfs/in/a.txt; echo x > /pfs/out/x; echo x > /pfs/in/x || rm /pfs/in/a.txt"
    )
    assert ended.exit_code == 1
    assert lines[:2] == ["in", "out"]
    assert sum("Read-only file system" in line for line in lines) == 2
    assert [name for name, _ in files_of(box)] == ["x"]
    assert not Path("/pfs").exists()
    assert str(box.folder) not in Path("/proc/mounts").read_text()


def test_the_data_directory_cannot_be_seen(box: Box) -> None:
    box.note_server("http://127.0.0.1:1")
    script = f"""
    find {box.home} -type f
    umount {box.home} 2>/dev/null; umount -l /pfs/in 2>/dev/null
    cat {box.home}/token /proc/{os.getpid()}/environ /proc/{os.getpid()}/root{box.home}/token 2>/dev/null
    unshare -Urm sh -c 'umount {box.home}; cat {box.home}/token' 2>/dev/null
    true
    """
    ended, lines = sh(box, script)
    assert ended.exit_code == 0
    assert lines == [f"{box.home}/run/server.json"]


def test_what_the_command_needs_of_it_is_kept(home: Path, box: Box) -> None:
    (home / "venv" / "bin").mkdir(parents=True)
    (home / "venv" / "bin" / "tool").write_text("x")
    kept = Box(folder=home / "run" / "scratch" / "kept", home=home, inputs=(), keep=(home / "venv",))
    kept.create()
    _, lines = sh(
        kept, f"find {home} -type f; echo y > {home}/venv/y || true; ln -s {home}/venv/bin/tool /pfs/out/l"
    )
    assert lines[0] == f"{home}/venv/bin/tool" and "Read-only" in lines[1]
    assert [path.read_text() for _, path in files_of(kept)] == ["x"]


def test_secrets_lie_where_they_are_asked_for_and_nowhere_on_the_host(home: Path) -> None:
    if choose_mode("auto", home)[0] != "namespace":
        pytest.skip("no private mount namespaces here")
    files = {"/opt/some/where/key": "v1", "/brandnew/k": "v2", "/etc/sec/k": "v3"}
    made = Box(folder=home / "run" / "scratch" / "t", home=home, inputs=(), secret_files=files)
    made.create()
    _, lines = sh(made, f"cat {' '.join(files)}; echo; test -e /etc/passwd && echo still")
    assert lines == ["v1v2v3", "still"]
    assert not any(Path(path).parent.exists() for path in files)


def test_processes_that_slip_away_are_ended_too(box: Box) -> None:
    slip = "import os,time; os.setsid(); time.sleep(77)"
    started = time.monotonic()
    code = f"""
    from trunkline.workers.sandbox import become_subreaper, run, Box
    import threading, pathlib
    become_subreaper()
    box = Box(folder=pathlib.Path({str(box.folder.parent / "slip")!r}), home=pathlib.Path({str(box.home)!r}), inputs=())
    box.create()
    ended = run(box, ["sh"], stdin_lines=["{sys.executable} -c '{slip}' & echo hi"], env={{"PATH": "/usr/bin:/bin"}},
        cwd="/", on_line=lambda *_: None, interrupted=threading.Event(), timeout_seconds=None)
    """
    subprocess.run([sys.executable, "-c", "\n".join(line[4:] for line in code.splitlines())], check=True)
    assert time.monotonic() - started < 20
    shown = subprocess.run(["ps", "ax", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert slip not in shown


def test_interruption_and_timeout(box: Box) -> None:
    ended, _ = sh(box, "sleep 60", timeout_seconds=0.3)
    assert (ended.exit_code, ended.was_interrupted) == (137, False)
    assert "ran past its datum_timeout of 0.3 s" in ended.reason
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    ended, _ = sh(box, "sleep 60", interrupted=stop)
    assert ended.was_interrupted and ended.seconds < 10


def test_every_line_comes_however_long_and_whatever_its_bytes(box: Box) -> None:
    _, lines = sh(
        box, "printf 'a\\nb'; printf '\\377\\n'; head -c 200000 /dev/zero | tr '\\0' x; echo; echo last"
    )
    assert lines[:2] == ["a", "b\ufffd"] and lines[-1] == "last"
    assert "".join(lines[2:-1]) == "x" * 200_000


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("mkfifo /pfs/out/p", "is a named pipe"),
        ("ln -s /nowhere /pfs/out/p", "leads nowhere"),
        ("ln -s ../../home/x /pfs/out/p", "leads nowhere"),
        ("ln -s p /pfs/out/p", "leads nowhere"),
        ("mkdir /pfs/out/d; ln -s .. /pfs/out/d/up", "nested too deeply"),
        ("ln -s /dev/null /pfs/out/p", "cannot be stored"),
        ("ln -s /proc/self/environ /pfs/out/p", "cannot be stored"),
        ("printf x > \"$(printf '/pfs/out/\\377')\"", "not UTF-8"),
        ("printf x > \"$(printf '/pfs/out/a\\nb')\"", r"^/pfs/out/a\\nb has a name .* U\+000A"),
    ],
)
def test_what_cannot_be_stored_is_named(box: Box, script: str, message: str) -> None:
    ended, _ = sh(box, script)
    assert ended.exit_code == 0
    with pytest.raises(InvalidInputError, match=message):
        list(files_of(box))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")
def test_a_device_is_no_output(box: Box) -> None:
    os.mknod(box.out / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(
        InvalidInputError, match="/pfs/out/null is a device; only files and folders can be stored"
    ):
        list(files_of(box))


def limited(box: Box, program: str, **given: Any) -> tuple[Ended, list[str]]:
    lines: list[str] = []
    ended = run(
        box, [sys.executable, "-I", "-S", "-c", program], stdin_lines=(), env={}, cwd="/",
        on_line=lambda text, _: lines.append(text), interrupted=threading.Event(), timeout_seconds=None,
        limits=Limits(**given),
    )  # fmt: skip
    return ended, lines


EAT = "import sys; print('begin', flush=True); x = [bytearray(b'x' * 2**20) for _ in range(400)]"


def test_out_of_memory_is_said(box: Box) -> None:
    ended, lines = limited(box, EAT, memory_bytes=96 * 2**20)
    assert ended.exit_code != 0 and "begin" in lines
    group = make_group("trunkline-test-of-limits")
    if group is None:
        assert "its memory limit is 96MiB: out of memory?" in ended.reason
        return
    group.remove()
    assert ended.oom and ended.reason.startswith("out of memory: killed by the system, its limit is 96MiB")
    assert not list(Path("/sys/fs/cgroup").glob("**/trunkline-*"))
    inner = f'{sys.executable} -c "x = bytearray(400000000)[::1]"'
    shell = f"import os; os.system({inner!r}) and os._exit(3)"
    ended, _ = limited(box, shell, memory_bytes=96 * 2**20)
    assert ended.oom and ended.exit_code == 3  # not the command itself, but a process of it


EAT_IN_A_CHILD = f"{sys.executable} -c 'x = bytearray(400000000)[::1]'"


def one_after_the_other(
    box: Box, limits: Limits, *scripts: str, timeout_seconds: float = 20.0
) -> list[Ended]:
    """Commands in one sandbox."""
    stdin = box.write_stdin(())
    with start_sandbox("namespace", box)[0] as sandbox:
        sandbox.configure(sandbox.box, {"PATH": os.environ["PATH"]}, limits)
        return [
            sandbox.run(
                Command(
                    argv=["sh", "-c", script], stdin=stdin, env={}, cwd="/", interrupted=threading.Event(),
                    timeout_seconds=timeout_seconds,
                )
            )
            for script in scripts
        ]  # fmt: skip


def test_out_of_memory_is_said_of_whom_it_befell(box: Box) -> None:
    group = make_group("trunkline-test-of-limits")
    if group is None:
        pytest.skip("no control groups may be made here")
    group.remove()
    ended = one_after_the_other(
        box, Limits(memory_bytes=96 * 2**20),
        f"{EAT_IN_A_CHILD} || true", "exit 7", f"{EAT_IN_A_CHILD}; sleep 60", "exit 7", EAT_IN_A_CHILD, "kill -9 $$",
        f"{EAT_IN_A_CHILD}; exit 3", timeout_seconds=4.0,
    )  # fmt: skip
    killed = "out of memory: killed by the system, its limit is 96MiB"
    assert [one.oom for one in ended] == [False, False, False, False, True, False, True], ended
    reasons = [one.reason.partition(": Killed")[0] for one in ended]
    assert reasons[:2] == ["", "exit code 7"] and reasons[3:6] == ["exit code 7", killed, "killed by SIGKILL"]
    assert reasons[6] == killed


def test_without_a_group_only_what_was_killed_may_have_been_killed_for_memory(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "counter"
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    monkeypatch.setattr(
        "trunkline.workers.sandbox.oom_kills_around", lambda **_: OomKills(counter, is_shared=True)
    )
    more = f"echo oom_kill 4 > {counter}"
    ended = one_after_the_other(box, Limits(), "kill -9 $$", f"{more}; exit 7", "kill -9 $$")
    assert [one.oom for one in ended] == [False] * 3
    counter.write_text("oom_kill 3\n")
    [ended_of_it] = one_after_the_other(box, Limits(), f"{more}; kill -9 $$")
    assert ended_of_it.oom and ended_of_it.reason == "out of memory: killed by the system"


def test_kills_are_counted_here_and_on_the_whole_machine(tmp_path: Path) -> None:
    for is_here in (True, False):
        found = oom_kills_around(is_here=is_here)
        assert found is not None and found.is_shared
        assert found.count() >= 0
        found.close()
    counter = tmp_path / "events"
    counter.write_text("".join(f"other_{n} {n}\n" for n in range(20_000)) + "oom_kill 12\noom_group_kill 1\n")
    found = OomKills(counter, is_shared=False)
    assert found.count() == 12
    counter.write_text("oom 1\n")
    assert found.count() == 0
    found.close()


def test_without_control_groups_a_process_is_refused_memory(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.workers.limits.CGROUPS", box.folder)
    ended, _ = limited(box, EAT, memory_bytes=96 * 2**20)
    assert ended.reason.startswith("exit code 1 (its memory limit is 96MiB: out of memory?)")
    assert "MemoryError" in ended.reason


def test_no_network(box: Box) -> None:
    program = """
import socket
server = socket.create_server(("127.0.0.1", 8123))
socket.create_connection(("127.0.0.1", 8123), 5)
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    print(error.strerror)
"""
    ended, lines = limited(box, program, network=False)
    assert (ended.reason, lines) == ("", ["Network is unreachable"])


def test_a_file_that_is_too_large(box: Box) -> None:
    ended, _ = limited(box, "open('/pfs/out/x', 'wb').write(bytes(3 * 2**20))", disk_bytes=2**20)
    assert ended.exit_code != 0
    assert "larger than its disk limit of 1MiB" in ended.reason or "File too large" in ended.reason
    ended, _ = limited(
        box, "import os; os._exit(153)", disk_bytes=2**20
    )  # a shell says so of a command of its own
    assert "larger than its disk limit of 1MiB" in ended.reason


def test_what_it_used_is_measured(box: Box) -> None:
    program = "x = bytearray(b'x' * 50_000_000)\nfor _ in range(2_000_000): pass"
    ended, _ = limited(box, program)
    assert 50_000_000 < ended.memory_bytes < 200_000_000 and ended.cpu_seconds > 0.01


def test_a_command_sees_only_its_own_processes(box: Box) -> None:
    _, lines = sh(box, "echo /proc/[0-9]*; echo $$; kill -9 1; kill -TERM 1; kill -0 1 && echo still")
    assert lines == ["/proc/1 /proc/2", "2", "still"]  # the first process, and sh


def test_links_are_stored_as_what_they_lead_to(box: Box) -> None:
    sh(
        box,
        "cd /pfs/out; ln -s /pfs/in/a.txt l; ln -s /pfs/in d; mkdir e; ln -s ../l e/m; ln -s /etc/hostname h",
    )
    found = dict(files_of(box))
    assert set(found) == {"l", "d/a.txt", "e/m", "h"}
    assert found["l"].read_text() == found["d/a.txt"].read_text() == found["e/m"].read_text() == "hello"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_link_to_what_the_user_may_not_read_is_no_output(home: Path, box: Box) -> None:
    secret = home.parent / "secret"
    (secret / "below").mkdir(parents=True)
    for name, mode in (("mine", 0o600), ("everybodys", 0o644), ("below/x", 0o644)):
        (secret / name).write_text(name)
        (secret / name).chmod(mode)
    (secret / "below").chmod(0o711)
    for folder in [secret, *secret.parents]:
        folder.chmod(folder.stat().st_mode | 0o011)
    his = dataclasses.replace(box, user=(NOBODY, NOBODY, []))

    def stored(target: Path | str) -> list[str]:
        shutil.rmtree(box.out)
        box.out.mkdir()
        (box.out / "l").symlink_to(target)
        return [path.read_text() for _, path in files_of(his)]

    assert stored(secret / "everybodys") == ["everybodys"]
    assert stored(secret / "below/x") == ["below/x"]
    assert stored("/pfs/in/a.txt") == ["hello"]
    for forbidden in (secret / "mine", secret / "below", secret):
        with pytest.raises(InvalidInputError, match=r"/pfs/out/l.* is a link to what its user may not read"):
            stored(forbidden)
    (secret / "below").chmod(0o700)
    with pytest.raises(InvalidInputError, match="may not read"):
        stored(secret / "below/x")


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not write there anyway")
def test_root_cannot_turn_the_kernels_switches(box: Box) -> None:
    switches = [*Path("/proc/sys/kernel").glob("core_uses_pid"), *Path("/sys/kernel").glob("uevent_seqnum")]
    switches += [place for place in (Path("/proc/sysrq-trigger"),) if place.exists()]
    assert switches
    script = "\n".join(f"test -w {place} && echo {place} is open" for place in switches)
    ended, lines = sh(box, f"{script}\ntest -r {switches[0]} && echo read")
    assert lines == ["read"], ended


def test_a_demanded_namespace_that_is_impossible_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.workers.sandbox.sys.platform", "darwin")
    assert choose_mode("auto", home)[0] == "paths"
    with pytest.raises(UnavailableError, match="allow unprivileged user namespaces"):
        choose_mode("namespace", home)


def test_paths_mode_rewrites_only_what_means_pfs(home: Path) -> None:
    made = Box(folder=home / "t", home=home, inputs=("in",), mode="paths")
    real = str(made.pfs)
    assert (
        made.rewritten("cp /pfs/in/a '/pfs/out' /data/pfs/x /pfsx")
        == f"cp {real}/in/a '{real}/out' /data/pfs/x /pfsx"
    )


# --- as an ordinary user ---

ORDINARY = """
import json, os, sys, threading
from pathlib import Path
from trunkline.workers.outputs import files_of
from trunkline.workers.sandbox import Box, choose_mode, run
base = Path(sys.argv[1]); home = base / "home"; scratch = home / "run"; scratch.mkdir(parents=True)
(home / "token").write_text("SECRET")
mode, why_not = choose_mode("auto", scratch)
lines = []
if mode == "namespace":
    box = Box(folder=scratch / "t", home=home, inputs=("in",), secret_files={"/etc/sec/k": "v"})
    box.create(); (box.pfs / "in" / "a").write_text("hello")
    script = f"id -u; cat /pfs/in/a /etc/sec/k; cat {home}/token; echo x > /pfs/in/x; echo ok > /pfs/out/o; umount {home}"
    run(box, ["sh"], stdin_lines=[script], env={"PATH": "/usr/bin:/bin"}, cwd="/", on_line=lambda t, s: lines.append(t),
        interrupted=threading.Event(), timeout_seconds=None)
    lines += [name for name, _ in files_of(box)]
print(json.dumps([mode, why_not, lines]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="trunkline-nobody-", dir="/tmp"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_the_same(open_folder: Path) -> None:
    python = _python_for_everybody()
    path = os.pathsep.join(one for one in sys.path if one)
    done = subprocess.run(
        [python, "-c", ORDINARY, str(open_folder)], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=False,
        capture_output=True, text=True, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("an ordinary user cannot read this installation of trunkline")
    assert done.returncode == 0, done.stderr
    mode, why_not, lines = json.loads(done.stdout)
    if mode != "namespace":
        pytest.skip(f"no user namespaces for ordinary users here: {why_not}")
    assert str(NOBODY) in lines and "hellov" in lines
    assert "SECRET" not in "".join(lines) and lines[-1] == "o"
    assert any("Read-only" in line for line in lines)


def _python_for_everybody() -> str:
    """An interpreter of this very version that an ordinary user may run."""
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{wanted}", f"/usr/local/bin/python{wanted}"):
        try:
            subprocess.run(
                [candidate, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=True
            )
            return candidate
        except (OSError, subprocess.CalledProcessError):
            continue
    pytest.skip(f"an ordinary user finds no python{wanted} here")
