"""What was built from content that is about to be purged: asked of every domain by the IDs and trees that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from trunkline.core.ids import TreeHash
from trunkline.core.paths import parse_address
from trunkline.errors import TrunklineError
from trunkline.pipelines import datum_store
from trunkline.pipelines.service import PipelineService
from trunkline.registry.service import RegistryService
from trunkline.serving.service import ServingService
from trunkline.storage.db.engine import Database
from trunkline.training.service import TrainingService
from trunkline.versioning.purge import Holder
from trunkline.versioning.service import VersioningService

LIVE = "live services"
"""Services whose model holds the content itself: a purge would break them."""


class PurgeLineage:
    """Jobs, datums, experiments, checkpoints, model versions and services behind a purge."""

    def __init__(
        self,
        *,
        db: Database,
        versioning: VersioningService,
        pipelines: PipelineService,
        training: TrainingService,
        registry: RegistryService,
        serving: ServingService,
    ) -> None:
        self._db = db
        self._versioning = versioning
        self._pipelines = pipelines
        self._training = training
        self._registry = registry
        self._serving = serving

    def __call__(self, holders: Sequence[Holder], ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Names by kind. ``ids``: of the commits that hold the content, and of those made from them."""
        found: dict[str, list[str]] = defaultdict(list)
        for one in ids:
            found["jobs"] += [f"{j.project}/{j.pipeline}@{j.id}" for j in self._pipelines.jobs_of(one)]
            found["experiments"] += [f"{e.id} {e.name}" for e in self._training.experiments_of(one)]
            found["model versions"] += [f"{v.model}/{v.name}" for v in self._registry.versions_of(one)]
            found["services"] += [f"{r.namespace}/{r.name}" for r in self._serving.services_of(one)]
        for holder in holders:
            for root in holder.referred_by:
                if root.kind == "checkpoints.root":
                    found["checkpoints"].append(str(root.key[0]))
                elif root.kind.startswith("model_versions."):
                    found["model versions"].append(f"{root.key[0]}/{root.key[1]}")
        with self._db.read() as connection:
            keys = {holder.root: holder.keys for holder in holders}
            for label, identity in datum_store.consumers(connection, keys):
                found["datums"].append(label)
                found["cached results of its datums"].append(identity)
        found[LIVE] += self._live(holders)
        return found

    def _live(self, holders: Sequence[Holder]) -> Iterator[str]:
        for revision in self._serving.active_revisions():
            uri = revision.spec.storage_uri
            if uri.startswith("file:"):
                continue
            path = "/"
            if not uri.startswith("model://"):
                path = parse_address(uri.removeprefix("trunkline://"), "default").path or "/"
            below = path.strip("/").encode()
            for holder in holders:
                inside = [
                    key for key in holder.keys if not below or key == below or key.startswith(below + b"/")
                ]
                if inside and self._identity(holder.root, path) == revision.model_root:
                    yield f"service {revision.namespace}/{revision.name}"
                    break

    def _identity(self, root: str, path: str) -> str | None:
        try:
            return self._versioning.stat(TreeHash(root), path).hash
        except TrunklineError:
            return None
