"""Pipelines: create, change, look, steer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trunkline.core.paths import Address, parse_address
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.sdk.data import PAGE_ITEMS_MAX, DataMethods
from trunkline.sdk.specs import read_specs
from trunkline.sdk.tar import code_files
from trunkline.sdk.transport import path_of
from trunkline.wire.commits import Commit
from trunkline.wire.jobs import Job
from trunkline.wire.pipelines import Pipeline, PipelinePreview
from trunkline.wire.why import WhyDatum, WhyJob


class PipelineMethods(DataMethods):
    """The part of the client that speaks of pipelines."""

    def create_pipeline(
        self,
        spec: dict[str, Any],
        *,
        folder: Path | None = None,
        update: bool = False,
        reprocess: bool = False,
        keep_code: bool = False,
        project: str | None = None,
    ) -> Pipeline:
        """Create a pipeline from a spec. The folder that ``transform.code`` names, relative to ``folder`` (default: the
        working directory), is uploaded first. ``update`` makes a new version of an existing pipeline; with ``keep_code`` it
        keeps the code that it has.

        >>> client.create_pipeline({"pipeline": {"name": "edges"}, "input": ..., "transform": ...})
        """
        path, body = self._ask(spec, folder, update, reprocess, project, keep_code=keep_code)
        return Pipeline.model_validate(self.call("POST", path, json=body))

    def create_pipelines(
        self,
        specs: Path | Sequence[dict[str, Any]],
        *,
        folder: Path | None = None,
        update: bool = False,
        reprocess: bool = False,
        project: str | None = None,
        args: Mapping[str, str] | None = None,
    ) -> list[Pipeline]:
        """Create all pipelines of a spec file, or of a list of specs: all of them or, after an error, none. They may stand in any
        order, also where one reads what another makes; they are returned in that of the file. ``args`` are the arguments of a
        Jsonnet file.

        >>> client.create_pipelines(Path("training-pipeline.json"))
        """
        body = self._ask_all(specs, folder, update, reprocess, project, args)
        answer = self.call("POST", path_of("pipelines"), json=body)
        return [Pipeline.model_validate(one) for one in answer["items"]]

    def preview_pipeline(
        self,
        spec: dict[str, Any],
        *,
        folder: Path | None = None,
        update: bool = False,
        reprocess: bool = False,
        datums: int = 20,
        project: str | None = None,
    ) -> PipelinePreview:
        """What ``create_pipeline`` would do: the effective spec, what would be computed and why, and the first datums.

        >>> client.preview_pipeline(spec, update=True).work.kinds
        """
        path, body = self._ask(spec, folder, update, reprocess, project)
        answer = self.call("POST", path + "/preview", json={**body, "datums": datums})
        return PipelinePreview.model_validate(answer)

    def preview_pipelines(
        self,
        specs: Path | Sequence[dict[str, Any]],
        *,
        folder: Path | None = None,
        update: bool = False,
        reprocess: bool = False,
        datums: int = 20,
        project: str | None = None,
        args: Mapping[str, str] | None = None,
    ) -> list[PipelinePreview]:
        """What ``create_pipelines`` would do. What one of them would read of another is not there yet, so it is as if empty.

        >>> [found.is_new for found in client.preview_pipelines(Path("pipelines.yaml"))]
        """
        body = self._ask_all(specs, folder, update, reprocess, project, args) | {"datums": datums}
        answer = self.call("POST", path_of("pipelines", "preview"), json=body)
        return [PipelinePreview.model_validate(one) for one in answer["items"]]

    def _ask_all(
        self,
        specs: Path | Sequence[dict[str, Any]],
        folder: Path | None,
        update: bool,
        reprocess: bool,
        project: str | None,
        args: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        if isinstance(specs, Path):
            folder = folder or specs.parent
            specs = read_specs(specs, args)
        roots: dict[str, str | None] = {}  # a folder that several of them name is uploaded once
        pipelines = []
        for spec in specs:
            code = _code_of(spec)
            if code is not None and code not in roots:
                roots[code] = self._upload_code(spec, folder or Path())
            pipelines.append({"spec": spec, "code_root": None if code is None else roots[code]})
        return {
            "pipelines": pipelines, "project": project or self.project, "update": update, "reprocess": reprocess,
        }  # fmt: skip

    def _ask(
        self,
        spec: dict[str, Any],
        folder: Path | None,
        update: bool,
        reprocess: bool,
        project: str | None,
        *,
        keep_code: bool = False,
    ) -> tuple[str, dict[str, Any]]:
        named = spec.get("pipeline")
        own = named.get("project") if isinstance(named, dict) else None
        where = own.get("name") if isinstance(own, dict) else own
        root = None if keep_code else self._upload_code(spec, folder or Path())
        body = {"spec": spec, "code_root": root, "update": update, "reprocess": reprocess}
        return self._in(project or where, "pipelines"), body  # fmt: skip

    def _upload_code(self, spec: dict[str, Any], folder: Path) -> str | None:
        code = _code_of(spec)
        if code is None:
            return None
        path = folder / code
        if not path.is_dir():
            raise InvalidInputError(
                f"transform.code {code!r}: there is no folder {path}",
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

    def list_pipeline_versions(self, name: str, *, project: str | None = None) -> list[Pipeline]:
        """A pipeline in all its versions, the newest first.

        >>> [pipeline.version for pipeline in client.list_pipeline_versions("edges")]
        """
        found = self._pages(self._pipeline(name, project, "versions"))
        return [Pipeline.model_validate(one) for one in found]

    def inspect_pipeline(
        self, name: str, *, version: int | None = None, project: str | None = None
    ) -> Pipeline:
        """One pipeline, as it is now or as it was in a version.

        >>> client.inspect_pipeline("edges").spec
        """
        answer = self.call("GET", self._pipeline(name, project), query={"version": version})
        return Pipeline.model_validate(answer)

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

    def rerun_pipeline(self, name: str, *, reprocess: bool = False, project: str | None = None) -> Job:
        """A new job for what the inputs hold now; it does what failed before, or with ``reprocess`` all.

        >>> client.rerun_pipeline("edges").id
        """
        body = {"reprocess": reprocess}
        return Job.model_validate(self.call("POST", self._pipeline(name, project, "rerun"), json=body))

    def run_cron(self, name: str, *, cron: str | None = None, project: str | None = None) -> list[Commit]:
        """Let the cron inputs of a pipeline tick now, or only one of them; returns the commits of the ticks.

        >>> client.run_cron("report")[0].id
        """
        answer = self.call("POST", self._pipeline(name, project, "cron"), json={"input": cron})
        return [Commit.model_validate(one) for one in answer["items"]]

    # --- helpers ---

    def _pipeline(self, name: str, project: str | None, *parts: str) -> str:
        where = parse_address(name, project or self.project)
        return path_of("projects", where.project, "pipelines", where.repo, *parts)

    def why_job(self, address: str, *, limit: int | None = None, project: str | None = None) -> WhyJob:
        """Why each datum of a job was done, or was not; with all that are not unchanged, or at most ``limit`` of them.

        >>> client.why_job("edges@1035715e796f45caae7a1d3ffd1f93ca").kinds
        {'new': 1, 'unchanged': 99}
        """
        path = self._job(address, project) + "/why"
        size = PAGE_ITEMS_MAX if limit is None else max(1, min(limit, PAGE_ITEMS_MAX))
        found: WhyJob | None = None
        datums: list[WhyDatum] = []
        cursor: str | None = None
        while found is None or (cursor is not None and (limit is None or len(datums) < limit)):
            answer = self.call("GET", path, query={"limit": size, "cursor": cursor})
            page = WhyJob.model_validate(answer)
            found, cursor = found or page, page.next
            datums += page.datums
        return found.model_copy(update={"datums": tuple(datums[:limit]), "next": cursor})

    def _job(self, address: str, project: str | None) -> str:
        """The path of a job. A branch stands for the job that made its head: so ask once, and go on with the answer."""
        where = parse_address(address, project or self.project)
        if where.path is not None or (where.branch is None and where.commit is None):
            raise InvalidInputError(
                f"{address!r} names no job: write pipeline@ID or pipeline@branch", kind="bad_address"
            )
        is_exact = where.commit is not None and str(where) == f"{where.project}/{where.repo}@{where.commit}"
        job_id = str(where.commit) if is_exact else self._made_by(where, address)
        return path_of("projects", where.project, "pipelines", where.repo, "jobs", job_id)

    def _made_by(self, where: Address, address: str) -> str:
        """The ID of a commit, which is that of the job that made it."""
        try:
            return str(self.call("GET", self._in(where.project, "commits"), query={"at": str(where)})["id"])
        except NotFoundError as error:
            raise NotFoundError(f"there is no job {address}: {error.message}", kind="no_job") from error


def _code_of(spec: dict[str, Any]) -> str | None:
    transform = spec.get("transform")
    code = transform.get("code") if isinstance(transform, dict) else None
    return None if code is None else str(code)
