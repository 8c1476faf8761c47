"""All tables, and the numbered migrations that lead to them.

Times are seconds since the Unix epoch (REAL). JSON columns hold what is read whole and never searched by content.
A row that something else points to by name across domains (a commit ID in a job, say) is referred to by that ID, not by a
foreign key: domains meet through ids.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from trunkline.errors import UnavailableError

SCHEMA_VERSION = 1

metadata = sa.MetaData()


def _now(name: str, *, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float, nullable=nullable)


meta = sa.Table(
    "meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)

# --- access -------------------------------------------------------------------------------------------------------

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column(
        "hash", sa.Text, primary_key=True
    ),  # SHA-256 of the token: the token itself is never stored here
    sa.Column("scope", sa.Text, nullable=False),  # admin, console, worker, job, trial
    sa.Column("subject", sa.Text, nullable=False),  # what it was given to, e.g. job:default/digits-model@<ID>
    _now("created_at"),
    _now("expires_at", nullable=True),
)

# --- versioning ---------------------------------------------------------------------------------------------------

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    _now("created_at"),
)
repos = sa.Table(
    "repos",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.Text, sa.ForeignKey("projects.name"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column(
        "owner", sa.Text, nullable=True
    ),  # e.g. pipeline:NAME; such a repo is changed only through its owner
    _now("created_at"),
    sa.UniqueConstraint("project", "name"),
)
branches = sa.Table(
    "branches",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("repo_id", sa.Integer, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("head", sa.Integer, nullable=True),  # commits.pk
    _now("created_at"),
    sa.UniqueConstraint("repo_id", "name"),
)
branch_provenance = sa.Table(
    "branch_provenance",
    metadata,
    sa.Column("branch_id", sa.Integer, sa.ForeignKey("branches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("upstream_id", sa.Integer, sa.ForeignKey("branches.id"), primary_key=True),
    sa.Index("branch_provenance_upstream", "upstream_id"),
)
commits = sa.Table(
    "commits",
    metadata,
    sa.Column("pk", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("repo_id", sa.Integer, sa.ForeignKey("repos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("branch", sa.Text, nullable=False),
    sa.Column("parent", sa.Integer, nullable=True),  # commits.pk
    sa.Column("origin", sa.Text, nullable=False),  # user, auto
    sa.Column("status", sa.Text, nullable=False),  # open, finished
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("root", sa.Text, nullable=True),  # tree hash; of an open commit: what was written so far
    sa.Column("size", sa.BigInteger, nullable=False, default=0),
    sa.Column("file_count", sa.BigInteger, nullable=False, default=0),
    _now("created_at"),
    _now("finished_at", nullable=True),
    sa.UniqueConstraint("repo_id", "id"),
    sa.Index("commits_id", "id"),
    sa.Index("commits_parent", "parent"),
)
commit_provenance = sa.Table(
    "commit_provenance",
    metadata,
    sa.Column("commit_pk", sa.Integer, sa.ForeignKey("commits.pk", ondelete="CASCADE"), primary_key=True),
    sa.Column("upstream_pk", sa.Integer, sa.ForeignKey("commits.pk"), primary_key=True),
    sa.Column(
        "upstream_branch", sa.Text, primary_key=True
    ),  # whose head it was; it may have been made on another
    sa.Index("commit_provenance_upstream", "upstream_pk"),
)
packs = sa.Table(
    "packs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # BLAKE3 of the pack file, hex
    sa.Column("size", sa.BigInteger, nullable=False),
    _now("created_at"),
)
chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("hash", sa.LargeBinary, primary_key=True),  # BLAKE3 of the uncompressed bytes, 32 bytes
    sa.Column("pack_id", sa.Integer, sa.ForeignKey("packs.id"), nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.Integer, nullable=False),  # bytes in the pack
    sa.Column("raw_length", sa.Integer, nullable=False),  # bytes after decompression
    sa.Column("codec", sa.Integer, nullable=False),  # 0 stored, 1 zstd
    sa.Index("chunks_pack", "pack_id"),
)

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
    _now("created_at"),
    _now("updated_at"),
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
    _now("created_at"),
    _now("exited_at", nullable=True),
    sa.Index("processes_subject", "kind", "subject"),
)
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    _now("created_at"),
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
    _now("created_at"),
    sa.Index("events_key", "noun", "key"),
)

# --- namespaces and secrets ---------------------------------------------------------------------------------------

namespaces = sa.Table(
    "namespaces", metadata, sa.Column("name", sa.Text, primary_key=True), _now("created_at")
)
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("namespace", sa.Text, sa.ForeignKey("namespaces.name"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False, default="Opaque"),
    sa.Column("data", sa.JSON, nullable=False),  # key -> base64, as Kubernetes stores it
    _now("created_at"),
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
    _now("created_at"),
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
    sa.Column("inputs", sa.JSON, nullable=False, default=list),  # [{name, repo, commit}]
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("processed", sa.Integer, nullable=False, default=0),
    sa.Column("skipped", sa.Integer, nullable=False, default=0),
    sa.Column("failed", sa.Integer, nullable=False, default=0),
    sa.Column("recovered", sa.Integer, nullable=False, default=0),
    sa.Column("stats", sa.JSON, nullable=False, default=dict),
    _now("created_at"),
    _now("started_at", nullable=True),
    _now("finished_at", nullable=True),
    sa.UniqueConstraint("pipeline_id", "id"),
    sa.Index("jobs_id", "id"),
)
datums = sa.Table(
    "datums",
    metadata,
    sa.Column("job_pk", sa.Integer, sa.ForeignKey("jobs.pk", ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),  # hash of what names it: inputs and paths
    sa.Column("identity", sa.Text, nullable=False),  # hash of what decides its result: content and code
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("output_root", sa.Text, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("stats", sa.JSON, nullable=False, default=dict),
    _now("started_at", nullable=True),
    _now("finished_at", nullable=True),
)
datum_results = sa.Table(
    "datum_results",
    metadata,
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("output_root", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    _now("created_at"),
)

# --- training and registry ----------------------------------------------------------------------------------------

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False, default=""),  # the commit set's ID, where one caused it
    sa.Column("idempotency_key", sa.Text, nullable=True, unique=True),
    sa.Column("config", sa.JSON, nullable=False),  # as given, with defaults filled in
    sa.Column("code_root", sa.Text, nullable=True),
    sa.Column("source_checkpoint", sa.Text, nullable=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column(
        "phase", sa.Text, nullable=False, default=""
    ),  # stopping: cancelled, but a trial is still saving
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("progress", sa.Float, nullable=False, default=0.0),
    sa.Column("searcher_state", sa.JSON, nullable=False, default=dict),
    _now("created_at"),
    _now("finished_at", nullable=True),
    sa.Index("experiments_label", "label"),
    sqlite_autoincrement=True,
)
trials = sa.Table(
    "trials",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(
        "experiment_id", sa.Integer, sa.ForeignKey("experiments.id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("request_id", sa.Text, nullable=False),  # the searcher's own name for it
    sa.Column("hparams", sa.JSON, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("restarts", sa.Integer, nullable=False, default=0),
    sa.Column("run_id", sa.Integer, nullable=False, default=0),
    sa.Column("progress", sa.Float, nullable=False, default=0.0),
    sa.Column("latest_checkpoint", sa.Text, nullable=True),
    sa.Column("steps_completed", sa.Integer, nullable=False, default=0),
    _now("created_at"),
    _now("finished_at", nullable=True),
    sa.UniqueConstraint("experiment_id", "request_id"),
    sqlite_autoincrement=True,
)
metrics = sa.Table(
    "metrics",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer, sa.ForeignKey("trials.id", ondelete="CASCADE"), nullable=False),
    sa.Column("run_id", sa.Integer, nullable=False),
    sa.Column("group", sa.Text, nullable=False),  # training, validation, or any other word
    sa.Column("steps_completed", sa.Integer, nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
    _now("created_at"),
    sa.UniqueConstraint("trial_id", "group", "steps_completed"),
)
checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("trial_id", sa.Integer, sa.ForeignKey("trials.id"), nullable=False),
    sa.Column("steps_completed", sa.Integer, nullable=False),
    sa.Column("root", sa.Text, nullable=True),  # tree of its files; None once deleted
    sa.Column("size", sa.BigInteger, nullable=False, default=0),
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
    sa.Column("state", sa.Text, nullable=False),  # completed, deleted
    _now("created_at"),
    sa.Index("checkpoints_trial", "trial_id"),
)
models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("labels", sa.JSON, nullable=False, default=list),
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
    _now("created_at"),
)
model_versions = sa.Table(
    "model_versions",
    metadata,
    sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),  # 1, 2, 3 …
    sa.Column("name", sa.Text, nullable=False),  # the commit set's ID, where one caused it
    sa.Column("checkpoint", sa.Text, nullable=True),  # checkpoints.uuid
    sa.Column("checkpoint_root", sa.Text, nullable=True),
    sa.Column("package_root", sa.Text, nullable=True),  # what a service loads: the model store's tree
    sa.Column("metrics", sa.JSON, nullable=False, default=dict),
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
    sa.Column("notes", sa.Text, nullable=False, default=""),
    _now("created_at"),
    sa.UniqueConstraint("model_id", "name"),
)
model_aliases = sa.Table(
    "model_aliases",
    metadata,
    sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
)

# --- serving ------------------------------------------------------------------------------------------------------

services = sa.Table(
    "services",
    metadata,
    sa.Column("namespace", sa.Text, sa.ForeignKey("namespaces.name"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("uid", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("observed_generation", sa.Integer, nullable=False, default=0),
    sa.Column("resource_version", sa.Integer, nullable=False, default=1),
    sa.Column("manifest", sa.JSON, nullable=False),  # metadata (labels, annotations) and spec as applied
    sa.Column("status", sa.JSON, nullable=False, default=dict),
    sa.Column("deleted", sa.Boolean, nullable=False, default=False),
    _now("created_at"),
)
revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # NAMESPACE/NAME-00001
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("commit_id", sa.Text, nullable=False, default=""),  # the one ID it answers with
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("model_root", sa.Text, nullable=True),
    sa.Column("phase", sa.Text, nullable=False),  # pulling, loading, probing, live, draining, stopped, failed
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("traffic", sa.Integer, nullable=False, default=0),
    _now("created_at"),
    _now("phase_since"),
    sa.UniqueConstraint("namespace", "service", "number"),
)


def _v1(connection: Connection) -> None:
    metadata.create_all(connection)


MIGRATIONS = {1: _v1}
"""Version -> the step that leads to it from the one before. Steps are never edited once released."""


def migrate(connection: Connection) -> None:
    """Bring the database to ``SCHEMA_VERSION`` inside the caller's transaction.

    :raises UnavailableError: if a newer trunkline has already migrated it.
    """
    has_meta = sa.inspect(connection).has_table("meta")
    found = 0
    if has_meta:
        found = int(
            connection.execute(
                sa.select(meta.c.value).where(meta.c.key == "schema_version")
            ).scalar_one_or_none()
            or 0
        )
    if found > SCHEMA_VERSION:
        raise UnavailableError(
            f"this data directory is of schema version {found}, this trunkline knows up to {SCHEMA_VERSION}: upgrade trunkline",
            kind="schema_too_new",
        )
    if found == SCHEMA_VERSION:
        return
    for version in range(found + 1, SCHEMA_VERSION + 1):
        MIGRATIONS[version](connection)
    connection.execute(sa.delete(meta).where(meta.c.key == "schema_version"))
    connection.execute(sa.insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))
