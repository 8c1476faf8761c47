"""The README's promise: `trunkline demo` ends with a model that answers, and its second version loses no request."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trunkline.cli.main", "demo"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    accuracies = [
        float(found) for found in re.findall(r"predict 300 pictures.*accuracy ([\d.]+) %", done.stdout)
    ]
    assert len(accuracies) == 2
    assert min(accuracies) >= 98.0
    requests, failed = re.search(r"(\d+) requests during the change, (\d+) failed", done.stdout).groups()  # type: ignore[union-attr]
    assert int(requests) > 50
    assert int(failed) == 0
    assert list(tmp_path.glob("trunkline-demo-*")) == []
