"""Jobs: what happens in pipelines, and what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from trunkline.core.ids import is_commit_id
from trunkline.core.paths import parse_address
from trunkline.sdk.data import POLL_SECONDS
from trunkline.sdk.pipelines import PipelineMethods
from trunkline.sdk.transport import path_of
from trunkline.wire.jobs import Datum, Job, JobSet, JobWorker
from trunkline.wire.pipelines import RestartedDatums

FINAL = frozenset({"succeeded", "failed", "cancelled", "unrunnable", "skipped"})
"""Statuses that do not change any more."""


class JobMethods(PipelineMethods):
    """The part of the client that speaks of jobs."""

    def list_jobs(
        self,
        pipeline: str | None = None,
        *,
        project: str | None = None,
        limit: int | None = None,
        status: Sequence[str] = (),
        inputs: Sequence[str] = (),
        history: int | None = None,
    ) -> list[Job]:
        """Jobs, newest first: of one pipeline, or of all. All there are, or at most ``limit``. ``status``: only with one of
        these; ``inputs``: only those that have read all of these commits; ``history``: only of the pipeline's present version
        and so many before it.

        >>> [job.status for job in client.list_jobs("edges", status=["failed"], inputs=["images@master"])]
        """
        query = {"status": list(status), "input": list(inputs), "history": history}
        if pipeline is not None:
            found = self._pages(self._pipeline(pipeline, project, "jobs"), query, limit)
        else:
            found = self._pages(path_of("jobs"), query | {"project": project}, limit)
        return [Job.model_validate(one) for one in found]

    def list_job_sets(self, *, project: str | None = None, limit: int | None = None) -> list[JobSet]:
        """What happened because of one change each: all jobs of an ID with their cost, the newest first.

        >>> [found.cost.stats["cpu_seconds"] for found in client.list_job_sets(limit=5)]
        """
        found = self._pages(path_of("jobsets"), {"project": project}, limit)
        return [JobSet.model_validate(one) for one in found]

    def inspect_job_set(self, commit_id: str) -> JobSet:
        """All jobs of an ID, and what they took together.

        >>> client.inspect_job_set("1035715e796f45caae7a1d3ffd1f93ca").cost.seconds
        """
        return JobSet.model_validate(self.call("GET", path_of("jobsets", commit_id)))

    def wait_job_set(self, commit_id: str) -> JobSet:
        """Wait until all jobs of an ID have ended.

        >>> {job.status for job in client.wait_job_set("1035715e796f45caae7a1d3ffd1f93ca").jobs}
        """
        self.wait_commit_set(
            commit_id
        )  # what follows from a job's output has a commit of this ID from the start
        while True:
            found = self.inspect_job_set(commit_id)
            waiting = [job for job in found.jobs if job.status not in FINAL]
            if not waiting:
                return found
            self.wait_job(f"{waiting[0].pipeline}@{commit_id}", project=waiting[0].project)

    def list_job_workers(self, address: str, *, project: str | None = None) -> list[JobWorker]:
        """What workers do for a job just now.

        >>> [worker.datum for worker in client.list_job_workers("edges@1035715e796f45caae7a1d3ffd1f93ca")]
        """
        found = self._items(self._job(address, project) + "/running")
        return [JobWorker.model_validate(one) for one in found]

    def inspect_job(self, address: str, *, project: str | None = None) -> Job:
        """One job, as ``pipeline@ID``, or as ``pipeline@branch``: the one that made the branch's head. So it is wherever a job
        is named.

        >>> client.inspect_job("edges@1035715e796f45caae7a1d3ffd1f93ca").reason
        """
        return Job.model_validate(self.call("GET", self._job(address, project)))

    def wait_job(self, address: str, *, project: str | None = None) -> Job:
        """Wait until a job has ended.

        >>> client.wait_job("edges@1035715e796f45caae7a1d3ffd1f93ca").status
        """
        path = self._job(address, project)
        while True:
            answer = self.call("GET", path, query={"wait_seconds": POLL_SECONDS})
            job = Job.model_validate(answer)
            if job.status in FINAL:
                return job

    def stop_job(self, address: str, *, project: str | None = None) -> Job:
        """End a job now.

        >>> client.stop_job("edges@1035715e796f45caae7a1d3ffd1f93ca")
        """
        return Job.model_validate(self.call("POST", self._job(address, project) + "/stop"))

    def delete_job(self, address: str, *, project: str | None = None) -> None:
        """Forget a job with its datums and its log; one that runs is ended first. Its output commit stays.

        >>> client.delete_job("edges@1035715e796f45caae7a1d3ffd1f93ca")
        """
        self.call("DELETE", self._job(address, project))

    def restart_datums(
        self, address: str, paths: Sequence[str] = (), *, datum: str = "", project: str | None = None
    ) -> list[str]:
        """Have datums of a running job done again: those that see all of the paths, or the one whose ID begins so.

        >>> client.restart_datums("edges@1035715e796f45caae7a1d3ffd1f93ca", ["/liberty.png"])
        """
        body = {"datum": datum, "paths": list(paths)}
        answer = self.call("POST", self._job(address, project) + "/restart", json=body)
        return list(RestartedDatums.model_validate(answer).datums)

    def list_datums(
        self,
        address: str,
        *,
        status: Sequence[str] = (),
        limit: int | None = None,
        project: str | None = None,
    ) -> list[Datum]:
        """The datums of a job; with ``status`` only those with one of these.

        >>> [datum.reason for datum in client.list_datums("edges@1035715e796f45caae7a1d3ffd1f93ca", status=["failed"])]
        """
        path = self._job(address, project) + "/datums"
        return [Datum.model_validate(one) for one in self._pages(path, {"status": list(status)}, limit)]

    def inspect_datum(self, address: str, datum: str, *, project: str | None = None) -> Datum:
        """One datum of a job; of its ID, the first six characters are enough where they are its alone.

        >>> client.inspect_datum("edges@1035715e796f45caae7a1d3ffd1f93ca", "3f9a1c04").why
        """
        return Datum.model_validate(self.call("GET", f"{self._job(address, project)}/datums/{quote(datum)}"))

    def pipeline_logs(
        self,
        pipeline: str,
        *,
        job: str | None = None,
        datum: str | None = None,
        inputs: Sequence[str] = (),
        since: float | None = None,
        until: float | None = None,
        worker: str | None = None,
        tail: int | None = None,
        files: bool = False,
        follow: bool = False,
        offset: int = 0,
        project: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The log of a pipeline's latest job, or of the one named (by its ID, or a branch), line by line: ``ts``, ``text``,
        ``stream``, ``datum``, ``attempt``, ``worker``, ``job``. ``follow`` goes on until the job ends.

        Only of a ``datum`` (the beginning of its ID), of datums that see all ``inputs`` (paths or hashes), of times from
        ``since`` to ``until`` (in seconds since 1970), of one ``worker``; of these the last ``tail``. ``files`` says of each
        line what its datum sees.

        >>> for line in client.pipeline_logs("edges", inputs=["/liberty.png"], follow=True): print(line["text"])
        """
        if job is not None and not is_commit_id(job):
            where = parse_address(f"{pipeline}@{job}", project or self.project)
            job = self._made_by(where, f"{pipeline}@{job}")
        query = {
            "job": job, "datum": datum, "input": list(inputs), "since": since, "until": until, "worker": worker,
            "tail": tail, "files": files, "offset": offset, "follow": follow,
        }  # fmt: skip
        yield from self.lines(self._pipeline(pipeline, project, "logs"), query=query)
