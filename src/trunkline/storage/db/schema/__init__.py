"""All tables, and the numbered migrations that lead to them.

Times are seconds since the Unix epoch (REAL). JSON columns hold what is read whole and never searched by content.
A row that something else points to by name across domains (a commit ID in a job, say) is referred to by that ID, not by a
foreign key: domains meet through ids.
"""

from __future__ import annotations

from trunkline.storage.db.schema.base import fit_postgresql, meta, metadata
from trunkline.storage.db.schema.data import (
    branch_provenance,
    branch_triggers,
    branches,
    chunks,
    commit_provenance,
    commits,
    linked_chunks,
    links,
    merges,
    packs,
    projects,
    repos,
    tags,
    tokens,
    transaction_operations,
    transactions,
    upload_parts,
    uploads,
)
from trunkline.storage.db.schema.keeping import (
    condemned_packs,
    maintenance,
    purged_roots,
    purges,
    tree_holds,
)
from trunkline.storage.db.schema.migrations import SCHEMA_VERSION, migrate
from trunkline.storage.db.schema.models import (
    checkpoints,
    experiments,
    metrics,
    model_aliases,
    model_versions,
    models,
    revisions,
    services,
    trials,
)
from trunkline.storage.db.schema.work import (
    SHORT_ID,
    SHORT_ID_CHARACTERS,
    datum_results,
    datums,
    egress_roots,
    events,
    jobs,
    namespaces,
    outbox,
    pipeline_crons,
    pipeline_versions,
    pipelines,
    processes,
    queues,
    secrets,
    tasks,
)

__all__ = [
    "SCHEMA_VERSION",
    "SHORT_ID",
    "SHORT_ID_CHARACTERS",
    "branch_provenance",
    "branch_triggers",
    "branches",
    "checkpoints",
    "chunks",
    "commit_provenance",
    "commits",
    "condemned_packs",
    "datum_results",
    "datums",
    "egress_roots",
    "events",
    "experiments",
    "jobs",
    "linked_chunks",
    "links",
    "maintenance",
    "merges",
    "meta",
    "metadata",
    "metrics",
    "migrate",
    "model_aliases",
    "model_versions",
    "models",
    "namespaces",
    "outbox",
    "packs",
    "pipeline_crons",
    "pipeline_versions",
    "pipelines",
    "processes",
    "projects",
    "purged_roots",
    "purges",
    "queues",
    "repos",
    "revisions",
    "secrets",
    "services",
    "tags",
    "tasks",
    "tokens",
    "transaction_operations",
    "transactions",
    "tree_holds",
    "trials",
    "upload_parts",
    "uploads",
]

fit_postgresql(metadata)
