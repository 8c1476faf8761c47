"""Tables of jobs, namespaces, secrets and pipelines."""

from __future__ import annotations

import sqlalchemy as sa

from trunkline.storage.db.schema.base import metadata, time_column

# --- jobs ---------------------------------------------------------------------------------------------------------

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),  # what it works on; one task per (kind, key)
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("run_after", sa.Float, nullable=False, default=0.0),
    sa.Column("again", sa.Boolean, nullable=False, default=False),  # asked for once more while it ran
    sa.Column("cancel", sa.Boolean, nullable=False, default=False),
    sa.Column("lease_owner", sa.Text, nullable=True),
    sa.Column("lease_token", sa.Text, nullable=True),
    sa.Column("lease_expires_at", sa.Float, nullable=True),
    time_column("created_at"),
    time_column("updated_at"),
    sa.UniqueConstraint("kind", "key"),
    sa.Index("tasks_ready", "status", "queue", "run_after"),
)
queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),  # which worker program serves it: datum, trial
    sa.Column("workers_max", sa.Integer, nullable=False, default=1),
    sa.Column("options", sa.JSON, nullable=False, default=dict),
)
processes = sa.Table(
    "processes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # worker, replica, gateway
    sa.Column("subject", sa.Text, nullable=False),  # the queue, the revision …
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("handle", sa.JSON, nullable=True),  # None until the engine has launched it
    sa.Column("status", sa.Text, nullable=False),  # starting, running, exited
    sa.Column("log", sa.Text, nullable=True),
    sa.Column("info", sa.JSON, nullable=False, default=dict),
    time_column("created_at"),
    time_column("exited_at", nullable=True),
    sa.Index("processes_subject", "kind", "subject"),
)
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    time_column("created_at"),
    sqlite_autoincrement=True,
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("noun", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("old", sa.Text, nullable=True),
    sa.Column("new", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    time_column("created_at"),
    sa.Index("events_key", "noun", "key"),
)

# --- namespaces and secrets ---------------------------------------------------------------------------------------

namespaces = sa.Table(
    "namespaces", metadata, sa.Column("name", sa.Text, primary_key=True), time_column("created_at")
)
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("namespace", sa.Text, sa.ForeignKey("namespaces.name"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False, default="Opaque"),
    sa.Column("data", sa.JSON, nullable=False),  # key -> base64, as Kubernetes stores it
    time_column("created_at"),
)

# --- pipelines ----------------------------------------------------------------------------------------------------

pipelines = sa.Table(
    "pipelines",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # running, paused
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("project", "name"),
)
pipeline_versions = sa.Table(
    "pipeline_versions",
    metadata,
    sa.Column("pipeline_id", sa.Integer, sa.ForeignKey("pipelines.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("spec", sa.JSON, nullable=False),  # the effective spec
    sa.Column("code_root", sa.Text, nullable=True),  # tree of the code folder that came with the spec
    sa.Column("salt", sa.Text, nullable=False),
    time_column("created_at"),
)
pipeline_crons = sa.Table(  # cron inputs of the present versions
    "pipeline_crons",
    metadata,
    sa.Column("pipeline_id", sa.Integer, sa.ForeignKey("pipelines.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("spec", sa.JSON, nullable=False),  # the input as the effective spec has it
    time_column("next_at", nullable=True),  # the first tick that was not made yet
    sa.Index("pipeline_crons_next", "next_at"),
)
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("pk", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),  # the commit set's ID
    sa.Column("pipeline_id", sa.Integer, sa.ForeignKey("pipelines.id", ondelete="CASCADE"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column(
        "inputs", sa.JSON, nullable=False, default=list
    ),  # [{name, project, repo, branch, commit, root}]
    sa.Column(
        "code", sa.Text, nullable=False, server_default=""
    ),  # digest of code, parameters and input tree
    sa.Column("base_pk", sa.Integer, nullable=True),  # the job that its datum rows are a difference to
    sa.Column("base_root", sa.Text, nullable=True),  # that job's output, until this one has ended
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("processed", sa.Integer, nullable=False, default=0),
    sa.Column("skipped", sa.Integer, nullable=False, default=0),
    sa.Column("failed", sa.Integer, nullable=False, default=0),
    sa.Column("recovered", sa.Integer, nullable=False, default=0),
    sa.Column("quarantined", sa.Integer, nullable=False, server_default="0"),
    sa.Column("sets", sa.Integer, nullable=False, server_default="0"),  # datum sets there are
    sa.Column(
        "sets_queued", sa.Integer, nullable=False, server_default="0"
    ),  # of them, those that have a task
    sa.Column("sets_lost", sa.JSON, nullable=False, server_default="[]"),  # those whose worker died once
    sa.Column("stats", sa.JSON, nullable=False, default=dict),
    sa.Column("egress", sa.JSON, nullable=False, server_default="{}"),  # what was written elsewhere
    time_column("created_at"),
    time_column("started_at", nullable=True),
    time_column("finished_at", nullable=True),
    sa.UniqueConstraint("pipeline_id", "id"),
    sa.Index("jobs_id", "id"),
    sa.Index("jobs_status", "status"),
    sa.Index("jobs_pipeline", "pipeline_id", "pk"),
    sqlite_autoincrement=True,  # a late word about a deleted job must not meet another one
)
SHORT_ID_CHARACTERS = 12
SHORT_ID = sa.literal_column(f"substr(datums.id, 1, {SHORT_ID_CHARACTERS})", sa.Text)
"""Of a datum, in the words of the index by which the datums of all jobs are found."""
_UNFILED = sa.text("filed_at IS NULL")
datums = sa.Table(  # what differs from the job's base, no more: see decision 0015
    "datums",
    metadata,
    sa.Column("job_pk", sa.Integer, sa.ForeignKey("jobs.pk", ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),  # hash of what names it: inputs and paths
    sa.Column("identity", sa.Text, nullable=False),  # hash of what decides its result: content and code
    sa.Column("old_identity", sa.Text, nullable=True),  # what it was in the base
    sa.Column("old_root", sa.Text, nullable=True),  # its output there, until the job has ended
    sa.Column("old_prefix", sa.Text, nullable=False, server_default=""),
    sa.Column("position", sa.Integer, nullable=True),  # among those that are to be computed
    sa.Column("set_no", sa.Integer, nullable=True),
    sa.Column(
        "waits", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # another job computes the same
    sa.Column("status", sa.Text, nullable=False),
    sa.Column(
        "files", sa.JSON, nullable=False, server_default="[]"
    ),  # [[number of the job's input, path, hash, size]]
    sa.Column("env", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("output_root", sa.Text, nullable=True),
    sa.Column("output_prefix", sa.Text, nullable=False, server_default=""),
    sa.Column("size", sa.Integer, nullable=False, server_default="0"),
    sa.Column("file_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("why", sa.JSON, nullable=False, server_default="{}"),  # why it is not as in the base
    sa.Column("stats", sa.JSON, nullable=False, default=dict),
    time_column("started_at", nullable=True),
    time_column("finished_at", nullable=True),
    # From then on, its own row is asked no more for what it made: datum_results has it, if it is good for others.
    time_column("filed_at", nullable=True),
    sa.Index("datums_set", "job_pk", "set_no"),
    # Hashes come in no order, so a new row changes a page of its own in each index over them. Hence these two are small: one
    # has the datums that are not filed, one the beginnings of IDs.
    sa.Index("datums_unfiled", "identity", sqlite_where=_UNFILED, postgresql_where=_UNFILED),
    sa.Index("datums_short_id", sa.text(f"substr(id, 1, {SHORT_ID_CHARACTERS})")),
)
datum_results = sa.Table(
    "datum_results",
    metadata,
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("output_root", sa.Text, nullable=True),  # none: it wrote nothing
    sa.Column("output_prefix", sa.Text, nullable=False, server_default=""),
    sa.Column("size", sa.Integer, nullable=False, server_default="0"),
    sa.Column("file_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("job_id", sa.Text, nullable=False),
    time_column("created_at"),
)
egress_roots = sa.Table(  # trees of which files are at a target, or may be
    "egress_roots",
    metadata,
    sa.Column("pipeline_id", sa.Integer, sa.ForeignKey("pipelines.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),  # a URL without secrets
    sa.Column("root", sa.Text, primary_key=True),
    sa.Column("is_whole", sa.Boolean, nullable=False),  # false: begun, and perhaps not ended
    sa.Column(
        "salt", sa.Text, nullable=False
    ),  # of the pipeline then: another one means that all is sent again
    sa.Column("job_id", sa.Text, nullable=False),
    time_column("created_at"),
)
