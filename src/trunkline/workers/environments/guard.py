"""Outlives its worker by a moment, to remove the containers that a killed one leaves behind.

Run as ``python -I -S guard.py PREFIX ENGINE...``: waits until its stdin ends, which it does with the worker, then removes
every container whose name begins with PREFIX, and the folders of secrets in memory that do. Imports nothing of trunkline.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROUNDS = 20


def main() -> None:
    prefix, engine = sys.argv[1], sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for folder in Path("/dev/shm").glob(f"{prefix}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for _ in range(ROUNDS):
        listed = subprocess.run(
            [*engine, "ps", "-a", "--filter", f"name={prefix}", "--format", "{{.Names}}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        names = [name for name in listed.stdout.split() if name.startswith(prefix)]
        if not names:
            return
        subprocess.run([*engine, "rm", "-f", *names], capture_output=True, check=False)


if __name__ == "__main__":
    main()
