"""How the tasks of pipelines are called: kinds, keys, queues."""

from __future__ import annotations

from trunkline.pipelines.store import JobRow

PLAN_JOB = "plan-job"
"""One task for each pipeline: plan the jobs whose inputs are there."""
FINISH_JOB = "finish-job"
"""One task for each pipeline: finish the jobs whose datums are done, in order."""
JOB_TIMEOUT = "job-timeout"
EGRESS_JOB = "egress-job"
SWEEP_LOGS = "sweep-logs"
"""One task for each pipeline: logs of jobs that are not there any more."""
SPOUT = "spout"
SPOUT_LOG = "spout"
"""In the place of a job's ID, where the log of a spout is."""
DATUM_SET = "datum-set"
DATUM_WORKER = "datum"


def queue_name(project: str, pipeline: str) -> str:
    return f"pipeline:{project}/{pipeline}"


def pipeline_key(project: str, pipeline: str) -> str:
    return f"{project}/{pipeline}"


def job_key(row: JobRow) -> str:
    return f"{row.job.project}/{row.job.pipeline}@{row.job.id}"


def set_key(row: JobRow, number: int) -> str:
    return f"{job_key(row)}/{number}"
