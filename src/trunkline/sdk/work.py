"""Work: pipelines and jobs, experiments and trials, models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trunkline.core.paths import parse_address
from trunkline.errors import InvalidInputError
from trunkline.sdk.data import POLL_SECONDS, DataMethods
from trunkline.sdk.tar import code_files
from trunkline.sdk.transport import path_of
from trunkline.wire.experiments import Checkpoint, Experiment, MetricsRow
from trunkline.wire.jobs import Datum, Job
from trunkline.wire.models import Model, ModelVersion
from trunkline.wire.pipelines import Pipeline
from trunkline.wire.trials import Trial

FINAL = frozenset({"succeeded", "failed", "cancelled", "unrunnable", "skipped"})
"""Statuses that do not change any more."""


class WorkMethods(DataMethods):
    """The part of the client that speaks of what runs."""

    # --- pipelines ---

    def create_pipeline(
        self,
        spec: dict[str, Any],
        *,
        folder: Path | None = None,
        update: bool = False,
        reprocess: bool = False,
        project: str | None = None,
    ) -> Pipeline:
        """Create a pipeline from a spec. The folder that ``transform.code`` names, relative to ``folder`` (default: the
        working directory), is uploaded first. ``update`` makes a new version of an existing pipeline.

        >>> client.create_pipeline({"pipeline": {"name": "edges"}, "input": ..., "transform": ...})
        """
        named = spec.get("pipeline")
        own = named.get("project") if isinstance(named, dict) else None
        where = own.get("name") if isinstance(own, dict) else own
        root = self._upload_code(spec, folder or Path())
        body = {"spec": spec, "code_root": root, "update": update, "reprocess": reprocess}
        path = self._in(project or where, "pipelines")
        return Pipeline.model_validate(self.call("POST", path, json=body))

    def create_pipelines(
        self, file: Path, *, update: bool = False, reprocess: bool = False, project: str | None = None
    ) -> list[Pipeline]:
        """Create all pipelines of a spec file, in its order.

        >>> client.create_pipelines(Path("training-pipeline.json"))
        """
        return [
            self.create_pipeline(
                spec, folder=file.parent, update=update, reprocess=reprocess, project=project
            )
            for spec in read_specs(file)
        ]

    def _upload_code(self, spec: dict[str, Any], folder: Path) -> str | None:
        transform = spec.get("transform")
        code = transform.get("code") if isinstance(transform, dict) else None
        if code is None:
            return None
        path = folder / str(code)
        if not path.is_dir():
            raise InvalidInputError(
                f"transform.code {str(code)!r}: there is no folder {path}",
                kind="no_code",
                details={"code": code},
            )
        return self.create_fileset(code_files(path)).root

    def list_pipelines(self, project: str | None = None) -> list[Pipeline]:
        """The pipelines of a project, or all.

        >>> [pipeline.name for pipeline in client.list_pipelines()]
        """
        path = path_of("pipelines") if project is None else path_of("projects", project, "pipelines")
        return [Pipeline.model_validate(one) for one in self._items(path)]

    def inspect_pipeline(self, name: str, *, project: str | None = None) -> Pipeline:
        """One pipeline.

        >>> client.inspect_pipeline("edges").spec
        """
        return Pipeline.model_validate(self.call("GET", self._pipeline(name, project)))

    def delete_pipeline(
        self, name: str, *, force: bool = False, keep_repo: bool = False, project: str | None = None
    ) -> None:
        """Delete a pipeline with its output, unless ``keep_repo``.

        >>> client.delete_pipeline("edges")
        """
        query = {"force": force, "keep_repo": keep_repo}
        self.call("DELETE", self._pipeline(name, project), query=query)

    def start_pipeline(self, name: str, *, project: str | None = None) -> Pipeline:
        """Let a stopped pipeline go on.

        >>> client.start_pipeline("edges").state
        """
        return Pipeline.model_validate(self.call("POST", self._pipeline(name, project, "start")))

    def stop_pipeline(self, name: str, *, project: str | None = None) -> Pipeline:
        """Let a pipeline begin no more jobs.

        >>> client.stop_pipeline("edges").state
        """
        return Pipeline.model_validate(self.call("POST", self._pipeline(name, project, "stop")))

    # --- jobs ---

    def list_jobs(
        self, pipeline: str | None = None, *, project: str | None = None, limit: int | None = None
    ) -> list[Job]:
        """Jobs, newest first: of one pipeline, or of all. All there are, or at most ``limit``.

        >>> [job.status for job in client.list_jobs("edges")]
        """
        if pipeline is not None:
            found = self._pages(self._pipeline(pipeline, project, "jobs"), limit=limit)
        else:
            found = self._pages(path_of("jobs"), {"project": project}, limit)
        return [Job.model_validate(one) for one in found]

    def inspect_job(self, address: str, *, project: str | None = None) -> Job:
        """One job, as ``pipeline@ID``.

        >>> client.inspect_job("edges@1035715e796f45caae7a1d3ffd1f93ca").reason
        """
        return Job.model_validate(self.call("GET", self._job(address, project)))

    def wait_job(self, address: str, *, project: str | None = None) -> Job:
        """Wait until a job has ended.

        >>> client.wait_job("edges@1035715e796f45caae7a1d3ffd1f93ca").status
        """
        while True:
            answer = self.call("GET", self._job(address, project), query={"wait_seconds": POLL_SECONDS})
            job = Job.model_validate(answer)
            if job.status in FINAL:
                return job

    def stop_job(self, address: str, *, project: str | None = None) -> Job:
        """End a job now.

        >>> client.stop_job("edges@1035715e796f45caae7a1d3ffd1f93ca")
        """
        return Job.model_validate(self.call("POST", self._job(address, project) + "/stop"))

    def list_datums(self, address: str, *, project: str | None = None) -> list[Datum]:
        """The datums of a job.

        >>> [datum.status for datum in client.list_datums("edges@1035715e796f45caae7a1d3ffd1f93ca")]
        """
        return [Datum.model_validate(one) for one in self._pages(self._job(address, project) + "/datums")]

    def pipeline_logs(
        self, pipeline: str, *, job: str | None = None, datum: str | None = None, follow: bool = False,
        offset: int = 0, project: str | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """The log of a pipeline's latest job, or of the one named; ``follow`` goes on until the job ends.

        >>> for line in client.pipeline_logs("edges", follow=True): print(line["text"])
        """
        query = {"job": job, "datum": datum, "offset": offset, "follow": follow}
        yield from self.lines(self._pipeline(pipeline, project, "logs"), query=query)

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

    def _pipeline(self, name: str, project: str | None, *parts: str) -> str:
        where = parse_address(name, project or self.project)
        return path_of("projects", where.project, "pipelines", where.repo, *parts)

    def _job(self, address: str, project: str | None) -> str:
        where = parse_address(address, project or self.project)
        if where.commit is None:
            raise InvalidInputError(f"{address!r} names no job: write pipeline@ID", kind="bad_address")
        return path_of("projects", where.project, "pipelines", where.repo, "jobs", where.commit)

    def _steer(self, experiment_id: int, verb: str) -> Experiment:
        return Experiment.model_validate(self.call("POST", path_of("experiments", experiment_id, verb)))


def read_specs(path: Path) -> list[dict[str, Any]]:
    """The pipeline specs in a JSON or YAML file: one, a list, or several documents.

    >>> [spec["pipeline"]["name"] for spec in read_specs(Path("pipelines.yaml"))]
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", kind="bad_file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise InvalidInputError(f"{path} is neither JSON nor YAML: {text}", kind="bad_file") from error
    specs = [
        spec for one in documents if one is not None for spec in (one if isinstance(one, list) else [one])
    ]
    if not specs or not all(isinstance(spec, dict) for spec in specs):
        raise InvalidInputError(f"{path} holds no pipeline spec", kind="bad_file")
    return specs
