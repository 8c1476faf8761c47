"""What runs on this machine."""

from __future__ import annotations

from pathlib import Path


def running(*argv: str) -> int:
    """How many processes run exactly this command."""
    wanted = "\0".join(argv).encode() + b"\0"
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                count += (entry / "cmdline").read_bytes() == wanted
            except OSError:
                continue
    return count
