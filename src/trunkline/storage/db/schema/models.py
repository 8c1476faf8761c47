"""Tables of training, the registry and serving."""

from __future__ import annotations

import sqlalchemy as sa

from trunkline.storage.db.schema.base import metadata, time_column

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
    time_column("created_at"),
    time_column("finished_at", nullable=True),
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
    time_column("created_at"),
    time_column("finished_at", nullable=True),
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
    time_column("created_at"),
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
    time_column("created_at"),
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
    time_column("created_at"),
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
    time_column("created_at"),
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
    time_column("created_at"),
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
    time_column("created_at"),
    time_column("phase_since"),
    sa.UniqueConstraint("namespace", "service", "number"),
)
