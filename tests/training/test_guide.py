"""The code of docs/guides/training.md works as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.training.conftest import World
from trunkline import training
from trunkline.training.config import parse_config
from trunkline.versioning.model import PutFile

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "training.md"


def block(name: str) -> str:
    found = re.search(rf"<!-- tested: {re.escape(name)} -->\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None, f"no block {name}"
    return found[1]


def test_the_script_runs_by_hand(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(block("train.py"))
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.count("[validation]") == 4
    kept = json.loads((tmp_path / "checkpoints" / "step-200" / "model.json").read_text())
    assert abs(kept["slope"] - 3) < 0.5


def test_the_config_is_accepted(world: World) -> None:
    config = parse_config(block("config"))
    assert config.hyperparameters == {"learning_rate": 0.05}
    code = world.versioning.stage([PutFile(path="/train.py", parts=[block("train.py").encode()])])
    experiment = world.training.create_experiment(block("config"), code_root=code.root)
    assert experiment.name == "fit a line"


def test_every_member_of_the_context_that_it_names_exists() -> None:
    named = set(re.findall(r"context\.([a-z_]+)", GUIDE.read_text()))
    assert named <= set(dir(training.Context))
    public = {name for name in dir(training.Context) if not name.startswith("_")}
    assert public - named == {"experiment_id", "trial_id", "run_id"}
