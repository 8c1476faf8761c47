"""What training code has of trunkline: ``training.init()`` and the context that it returns.

Only the standard library is imported here, so that ``from trunkline import training`` costs a script nothing. Inside a trial
the context speaks with the trial's worker over a Unix socket (JSON lines); the worker alone holds credentials and talks to
the control server, and keeps trying while that is down. Without a worker the same script runs by hand: metrics are written
to standard output and checkpoints go below ``./checkpoints``.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trunkline.errors import InvalidInputError, StateError
from trunkline.training.link import LocalLink, WorkerLink

SOCKET_VARIABLE = "TRUNKLINE_TRIAL_SOCKET"
GROUP_LENGTH_MAX = 64


def init(
    *,
    hparams: Mapping[str, Any] | None = None,
    data_path: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> Context:
    """Connect with the trial that this process belongs to. Call it once, early.

    ``hparams``, ``data_path`` and ``config`` are what a run by hand uses; inside a trial the experiment's own count, and
    these are ignored.

    :raises UnavailableError: ``no_worker``, if the trial's worker is gone.

    >>> context = training.init(hparams={"lr": 0.1}, data_path="pictures")
    >>> model = make_model(context.hparams["lr"])
    """
    path = os.environ.get(SOCKET_VARIABLE)
    if path:
        return Context(WorkerLink(path))
    return Context(LocalLink(hparams=dict(hparams or {}), data_path=data_path, config=dict(config or {})))


class Context:
    """A trial, as its own code sees it. Made by ``init()``; safe to use from several threads."""

    def __init__(self, link: WorkerLink | LocalLink) -> None:
        self._link = link
        self._trial = link.hello()
        self._told_to_stop = False

    # --- what the trial is ---

    @property
    def hparams(self) -> dict[str, Any]:
        """This trial's hyperparameters, one value each; nested as in the config.

        >>> optimizer = torch.optim.SGD(model.parameters(), lr=context.hparams["lr"])
        """
        return dict(self._trial["hparams"])

    @property
    def config(self) -> dict[str, Any]:
        """The experiment's config with all defaults filled in; empty in a run by hand.

        >>> steps_max = context.config["searcher"]["max_length"]
        """
        return dict(self._trial["config"])

    @property
    def seed(self) -> int:
        """A whole number from 0 to 2**31 - 1 that is the same in every run of the trial. See ``seed_all``."""
        return int(self._trial["seed"])

    @property
    def experiment_id(self) -> int:
        """The experiment's number; 0 in a run by hand."""
        return int(self._trial["experiment_id"])

    @property
    def trial_id(self) -> int:
        """The trial's number; 0 in a run by hand."""
        return int(self._trial["trial_id"])

    @property
    def run_id(self) -> int:
        """1 in the trial's first run, one more in each run after a pause, a crash or a lost machine."""
        return int(self._trial["run_id"])

    # --- its data ---

    @property
    def data_path(self) -> Path:
        """The folder with the files of the commit that ``data:`` names in the config. Read only.

        :raises StateError: ``no_data``, if the config names no repo.

        >>> pictures = sorted(context.data_path.glob("train/*.png"))
        """
        if self._trial["data_path"] is None:
            raise StateError(
                "this experiment has no data: put 'repo' (and 'branch' or 'commit') below 'data' in its config",
                kind="no_data",
            )
        return Path(self._trial["data_path"])

    @property
    def new_files(self) -> list[Path]:
        """The files below ``data_path`` that were added or changed since ``data.previous_commit``, sorted; all files if
        the config names no such commit.

        >>> fresh = [path for path in context.new_files if path.suffix == ".png"]
        """
        listed = self._trial["new_files"]
        if listed is None:
            return sorted(path for path in self.data_path.rglob("*") if path.is_file())
        return [self.data_path / name for name in listed]

    # --- where it goes on from ---

    @property
    def latest_checkpoint(self) -> Path | None:
        """The folder of the checkpoint to go on from, as it was saved; None if the trial starts from nothing.

        That is the trial's own latest checkpoint if there is one, else the one that the experiment was told to start from
        (then ``warm_start`` is True).

        >>> if context.latest_checkpoint:
        ...     model.load_state_dict(torch.load(context.latest_checkpoint / "model.pt", weights_only=True))
        """
        path = self._trial["latest_checkpoint"]
        return Path(path) if path is not None else None

    @property
    def warm_start(self) -> bool:
        """Whether ``latest_checkpoint`` is of an earlier experiment: take the weights, but count steps from 0."""
        return bool(self._trial["warm_start"])

    @property
    def steps_completed(self) -> int:
        """The steps at which ``latest_checkpoint`` was saved by this trial; 0 at the start, also of a warm start.

        >>> for step in range(context.steps_completed, steps_max):
        ...     train_batch()
        """
        return int(self._trial["steps_completed"])

    # --- what it tells ---

    def report(self, metrics: Mapping[str, Any], *, steps: int, group: str = "validation") -> None:
        """Report metrics after ``steps`` batches (counted over all runs of the trial).

        ``metrics`` maps names to numbers; zero-dimensional arrays and tensors count as numbers, whatever else is stored as
        text. Checkpoints are ranked by the group ``validation``; report it *before* saving the checkpoint of the same
        steps. Another report for the same group and steps adds to the first. Returns at once; what was reported is stored
        before any checkpoint that is saved later.

        :raises InvalidInputError: ``bad_steps`` or ``bad_name``.

        >>> context.report({"loss": 0.31, "accuracy": 0.93}, steps=200)
        >>> context.report({"loss": 0.35}, steps=200, group="training")
        """
        if not group.strip() or len(group) > GROUP_LENGTH_MAX:
            raise InvalidInputError(
                f"metric group {group!r} is not allowed: use a short word", kind="bad_name"
            )
        values = {str(name): _plain(value) for name, value in metrics.items()}
        self._link.call("report", group=group, steps=_checked_steps(steps), metrics=values)

    @contextmanager
    def checkpoint(self, steps: int, metadata: Mapping[str, Any] | None = None) -> Iterator[Path]:
        """Save a checkpoint: fill the folder that this yields.

        When the block ends, the folder is stored and has become the trial's latest checkpoint before the next line runs; if
        the control server is down, that waits for it. If the block raises, nothing is stored. ``metadata`` is a small
        JSON object that is kept with it. Files and folders only: no links.

        :raises InvalidInputError: ``bad_steps``, ``bad_metadata``, or ``bad_file`` for links and devices.
        :raises UnavailableError: the server did not come back for ten minutes.

        >>> with context.checkpoint(steps=200) as folder:
        ...     torch.save(model.state_dict(), folder / "model.pt")
        """
        checked, plain = _checked_steps(steps), _checked_metadata(metadata)
        name = str(uuid.uuid4())
        folder = Path(self._trial["checkpoints_path"]) / name
        folder.mkdir(parents=True)
        try:
            yield folder
            self._link.call("checkpoint", uuid=name, steps=checked, metadata=plain)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def progress(self, fraction: float) -> None:
        """Say which part of the trial is done, 0 to 1; what lies beyond counts as the nearer end. Cheap; call it as often as
        you like.

        >>> context.progress(step / steps_max)
        """
        if not math.isnan(fraction):
            self._link.call("progress", fraction=max(0.0, min(1.0, float(fraction))))

    def should_stop(self) -> bool:
        """Whether to save a checkpoint and exit (with status 0) now: the experiment was paused or cancelled.

        It looks for a file, a few microseconds; call it after every batch. Once it has said True, it stays True, and the
        trial will be started again from its latest checkpoint if it is wanted later.

        >>> if context.should_stop():
        ...     save(step)
        ...     break
        """
        if not self._told_to_stop and os.path.exists(self._trial["stop_file"]):  # noqa: PTH110  (half the time of Path)
            self._told_to_stop = True
            self._link.call("stopping")
        return self._told_to_stop

    def seed_all(self, extra: int = 0) -> int:
        """Seed Python's ``random``, and NumPy's and PyTorch's generators if they are imported; returns the seed.

        ``extra`` (the step that a run starts from, say) makes a resumed run draw other numbers than the first one did.
        Call it after your imports.

        >>> import torch
        >>> context.seed_all(extra=context.steps_completed)
        """
        seed = (self.seed + extra) % 2**31
        random.seed(seed)
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed(seed)
        if (torch := sys.modules.get("torch")) is not None:
            torch.manual_seed(seed)
        return seed


def _checked_steps(steps: int) -> int:
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or int(steps) < 0:
        raise InvalidInputError(
            f"steps must be a whole number of at least 0, not {steps!r}", kind="bad_steps"
        )
    return int(steps)


def _checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        plain = json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"checkpoint metadata must be JSON: {error}", kind="bad_metadata") from error
    return dict(plain)


def _plain(value: Any) -> Any:
    """A metric's value as JSON: training must not die of the type of a number."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return _plain(item())
        except (TypeError, ValueError, RuntimeError):
            return str(value)
    return str(value)
