"""A subscription gives each commit once, over a server that is killed and comes back elsewhere."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from trunkline.testing.server import PROGRAM, running_server

SECONDS = 60.0


@pytest.mark.slow
def test_each_commit_once_over_restarts(tmp_path: Path) -> None:
    with running_server(tmp_path / "home") as server:
        client = server.client()
        client.create_repo("feed")
        made = [client.put_file("feed@master:/f", b"first").id]
        process = subprocess.Popen(
            [*PROGRAM, "subscribe", "commit", "feed@master", "-o", "json"], env=server.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        lines: Queue[str] = Queue()
        assert process.stdout is not None
        stdout = process.stdout
        reader = Thread(target=lambda: [lines.put(line) for line in stdout])
        reader.start()
        try:
            seen = [json.loads(lines.get(timeout=SECONDS))["id"]]
            for round_number in range(3):
                client = server.client()
                made += [
                    client.put_file("feed@master:/f", f"{round_number} {n}".encode()).id for n in range(3)
                ]
                if round_number == 1:
                    seen += [
                        json.loads(lines.get(timeout=SECONDS))["id"] for _ in range(len(made) - len(seen))
                    ]
                server.kill()
                server.start()
            made.append(server.client().put_file("feed@master:/f", b"last").id)
            while len(seen) < len(made):
                seen.append(json.loads(lines.get(timeout=SECONDS))["id"])
            assert seen == made
            time.sleep(0.5)  # nothing more may come: there is no condition to wait for
            assert lines.empty()
        finally:
            process.kill()
            process.wait()
            reader.join()
            stdout.close()
