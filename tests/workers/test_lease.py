"""The parts of the worker's loop that need no server: logs in order and once, scratch that is not left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from trunkline.workers.logs import LogShipper
from trunkline.workers.scratch import make_scratch, remove_tree, started_at


def test_lines_are_sent_in_order_with_the_number_sent_before() -> None:
    sent: list[tuple[int, list[str]]] = []
    shipper = LogShipper(lambda offset, lines: sent.append((offset, [line["text"] for line in lines])))
    for number in range(2500):
        shipper.add(str(number), "stdout")
    shipper.close()
    assert [text for _, batch in sent for text in batch] == [str(number) for number in range(2500)]
    assert [offset for offset, _ in sent] == [sum(len(b) for _, b in sent[:n]) for n in range(len(sent))]


def test_lines_come_soon() -> None:
    arrived = threading.Event()
    shipper = LogShipper(lambda *_: arrived.set())
    shipper.add("now", "stdout")
    assert arrived.wait(0.5)
    shipper.close()


def test_a_lost_lease_lets_go_of_whoever_writes() -> None:
    release = threading.Event()
    shipper = LogShipper(lambda *_: release.wait(10) and None)  # a server that takes nothing
    writer = threading.Thread(target=lambda: [shipper.add("x", "stdout") for _ in range(60_000)])
    writer.start()
    shipper.discard()
    writer.join(10)
    assert not writer.is_alive()
    release.set()
    shipper.close()


def test_scratch_of_the_dead_is_swept_and_of_the_living_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        root = tmp_path / "run" / "scratch"
        for name, owner in {
            "living": {"pid": child.pid, "started": started_at(child.pid)},
            "reused": {"pid": child.pid, "started": "1"},
            "gone": {"pid": 2**22 + 1, "started": "1"},
        }.items():
            (root / name / "deep").mkdir(parents=True)
            (root / name / "owner.json").write_text(json.dumps(owner))
        own = make_scratch(tmp_path, "me")
        assert sorted(one.name for one in root.iterdir()) == ["living", "me"]
        assert json.loads((own / "owner.json").read_text())["pid"] == os.getpid()
    finally:
        child.kill()
        child.wait()


def test_remove_tree_takes_what_users_leave(tmp_path: Path) -> None:
    folder: Any = tmp_path / "x"
    (folder / "locked" / "in").mkdir(parents=True)
    (folder / "locked" / "in" / "file").write_text("x")
    (folder / "link").symlink_to("/etc")
    (folder / "locked" / "in").chmod(0)
    (folder / "locked").chmod(0o500)
    remove_tree(folder)
    assert not folder.exists() and Path("/etc/passwd").exists()
    remove_tree(folder)
