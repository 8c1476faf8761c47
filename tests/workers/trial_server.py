"""``python -m tests.workers.trial_server HOME``: a control server that a test may kill. Says ``ready`` when it answers."""

import sys
import time
from pathlib import Path

from tests.workers.test_trial import Server

if __name__ == "__main__":
    Server(Path(sys.argv[1]))
    print("ready", flush=True)
    time.sleep(300)
