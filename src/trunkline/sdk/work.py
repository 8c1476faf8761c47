"""Work: experiments and trials, models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trunkline.sdk.data import POLL_SECONDS
from trunkline.sdk.jobs import FINAL, JobMethods
from trunkline.sdk.tar import code_files
from trunkline.sdk.transport import path_of
from trunkline.wire.experiments import Checkpoint, Experiment, MetricsRow
from trunkline.wire.models import Model, ModelVersion
from trunkline.wire.trials import Trial


class WorkMethods(JobMethods):
    """The part of the client that speaks of what runs."""

    # --- experiments ---

    def create_experiment(
        self, settings: dict[str, Any] | str, code: Path | None = None, *, label: str = "",
        idempotency_key: str | None = None, source_checkpoint: str | None = None,
    ) -> Experiment:  # fmt: skip
        """Start an experiment: its configuration as a mapping or YAML text, and the folder with its code.

        >>> client.create_experiment(Path("const.yaml").read_text(), Path("."))
        """
        root = self.create_fileset(code_files(code)).root if code is not None else None
        body = {
            "config": settings, "code_root": root, "label": label, "idempotency_key": idempotency_key,
            "source_checkpoint": source_checkpoint,
        }  # fmt: skip
        return Experiment.model_validate(self.call("POST", path_of("experiments"), json=body))

    def list_experiments(self, label: str | None = None) -> list[Experiment]:
        """Experiments, newest first; with ``label`` those of one commit's ID.

        >>> [experiment.status for experiment in client.list_experiments()]
        """
        return [
            Experiment.model_validate(one) for one in self._items(path_of("experiments"), {"label": label})
        ]

    def inspect_experiment(self, experiment_id: int) -> Experiment:
        """One experiment.

        >>> client.inspect_experiment(1).progress
        """
        return Experiment.model_validate(self.call("GET", path_of("experiments", experiment_id)))

    def wait_experiment(self, experiment_id: int) -> Experiment:
        """Wait until an experiment has ended.

        >>> client.wait_experiment(1).status
        """
        while True:
            query = {"wait_seconds": POLL_SECONDS}
            answer = self.call("GET", path_of("experiments", experiment_id), query=query)
            found = Experiment.model_validate(answer)
            if found.status in FINAL:
                return found

    def pause_experiment(self, experiment_id: int) -> Experiment:
        """Let trials save a checkpoint and stop, to go on later.

        >>> client.pause_experiment(1)
        """
        return self._steer(experiment_id, "pause")

    def activate_experiment(self, experiment_id: int) -> Experiment:
        """Let a paused experiment go on.

        >>> client.activate_experiment(1)
        """
        return self._steer(experiment_id, "activate")

    def cancel_experiment(self, experiment_id: int) -> Experiment:
        """Let trials save a checkpoint and stop for good.

        >>> client.cancel_experiment(1)
        """
        return self._steer(experiment_id, "cancel")

    def kill_experiment(self, experiment_id: int) -> Experiment:
        """End an experiment at once.

        >>> client.kill_experiment(1)
        """
        return self._steer(experiment_id, "kill")

    def list_trials(self, experiment_id: int) -> list[Trial]:
        """The trials of an experiment.

        >>> [trial.hparams for trial in client.list_trials(1)]
        """
        found = self._items(path_of("experiments", experiment_id, "trials"))
        return [Trial.model_validate(one) for one in found]

    def inspect_trial(self, trial_id: int) -> Trial:
        """One trial.

        >>> client.inspect_trial(1).steps_completed
        """
        return Trial.model_validate(self.call("GET", path_of("trials", trial_id)))

    def list_metrics(self, experiment_id: int, group: str | None = None) -> list[MetricsRow]:
        """Reported metrics by trial and step; with ``group`` only ``training``, ``validation`` …

        >>> [row.values for row in client.list_metrics(1, "validation")]
        """
        found = self._items(path_of("experiments", experiment_id, "metrics"), {"group": group})
        return [MetricsRow.model_validate(one) for one in found]

    def list_checkpoints(self, experiment_id: int) -> list[Checkpoint]:
        """The checkpoints of an experiment, best first.

        >>> client.list_checkpoints(1)[0].metrics
        """
        found = self._items(path_of("experiments", experiment_id, "checkpoints"))
        return [Checkpoint.model_validate(one) for one in found]

    def inspect_checkpoint(self, uuid: str) -> Checkpoint:
        """One checkpoint.

        >>> client.inspect_checkpoint("0b0c…").metrics
        """
        return Checkpoint.model_validate(self.call("GET", path_of("checkpoints", uuid)))

    def trial_logs(self, trial_id: int, *, follow: bool = False, offset: int = 0) -> Iterator[dict[str, Any]]:
        """A trial's log; ``follow`` goes on until it ends.

        >>> for line in client.trial_logs(1): print(line["text"])
        """
        query = {"offset": offset, "follow": follow}
        yield from self.lines(path_of("trials", trial_id, "logs"), query=query)

    # --- models ---

    def create_model(self, name: str, description: str = "", *, exist_ok: bool = False) -> Model:
        """Create a model in the registry.

        >>> client.create_model("digits")
        """
        body = {"name": name, "description": description, "exist_ok": exist_ok}
        return Model.model_validate(self.call("POST", path_of("models"), json=body))

    def list_models(self) -> list[Model]:
        """All models.

        >>> [model.name for model in client.list_models()]
        """
        return [Model.model_validate(one) for one in self._items(path_of("models"))]

    def inspect_model(self, name: str) -> Model:
        """One model.

        >>> client.inspect_model("digits").version_count
        """
        return Model.model_validate(self.call("GET", path_of("models", name)))

    def list_versions(self, model: str) -> list[ModelVersion]:
        """The versions of a model, newest first.

        >>> client.list_versions("digits")[0].metrics
        """
        return [ModelVersion.model_validate(one) for one in self._items(path_of("models", model, "versions"))]

    def inspect_version(self, model: str, ref: str = "latest") -> ModelVersion:
        """One version, by name, number, alias or ``latest``.

        >>> client.inspect_version("digits", "production").name
        """
        return ModelVersion.model_validate(self.call("GET", path_of("models", model, "versions", ref)))

    def set_alias(self, model: str, alias: str, ref: str) -> ModelVersion:
        """Let an alias point to a version.

        >>> client.set_alias("digits", "production", "3")
        """
        path = path_of("models", model, "aliases", alias)
        return ModelVersion.model_validate(self.call("PUT", path, json={"ref": ref}))

    # --- helpers ---

    def _steer(self, experiment_id: int, verb: str) -> Experiment:
        return Experiment.model_validate(self.call("POST", path_of("experiments", experiment_id, verb)))
