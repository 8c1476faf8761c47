"""The control part as a process of its own, for tests that kill it: ``python -m tests.serving.driver HOME``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.serving.conftest import Control

if __name__ == "__main__":
    Control(Path(sys.argv[1]))
    print("running", flush=True)
    threading.Event().wait()
