"""Keeping data: collecting garbage, checking and repairing, purging, backing up."""

from __future__ import annotations

from collections.abc import Iterable

from trunkline.core.clock import Clock
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning import fsck, store
from trunkline.versioning.commits import Publisher
from trunkline.versioning.gc import GRACE_SECONDS, Collector, GcReport, Hook
from trunkline.versioning.maintenance import Progress, exclusive
from trunkline.versioning.roots import RootSource
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.writers import Writers


class Keeping(UseCases):
    """Work on the whole store. One at a time; readers and writers go on meanwhile."""

    def __init__(
        self,
        *,
        db: Database,
        objects: ObjectStore,
        clock: Clock,
        publish: Publisher,
        registry: Writers | None = None,
    ) -> None:
        super().__init__(db=db, objects=objects, clock=clock, publish=publish, registry=registry)
        self._roots: tuple[RootSource, ...] = store.ROOTS
        self.progress = Progress()

    def learn_roots(self, sources: Iterable[RootSource]) -> None:
        """Where other domains refer to trees. Without all of them a collection would delete what they need."""
        self._roots = (*self._roots, *sources)

    @property
    def root_sources(self) -> tuple[RootSource, ...]:
        return self._roots

    def gc(
        self,
        *,
        grace_seconds: float = GRACE_SECONDS,
        dry_run: bool = False,
        at: Hook = lambda step: None,
    ) -> GcReport:
        """Delete what nothing refers to, of packs that are older than the grace.

        :raises StateError: ``busy``. :raises CorruptionError: if something that is needed is lost; nothing was deleted then.
        """
        with exclusive(self._db, self._clock, "gc"), self.progress.of("gc"):
            collector = Collector(
                db=self._db, objects=self._objects, chunk_store=self._chunks, clock=self._clock,
                sources=self._roots, grace_seconds=grace_seconds, progress=self.progress, at=at,
            )  # fmt: skip
            return collector.run(dry_run=dry_run)

    def fsck(self) -> list[fsck.Problem]:
        """Walk everything that commits refer to and verify it; what is lost or damaged, and what needs it."""
        return fsck.check(self._db, self._objects, self._chunks)

    def reindex(self) -> int:
        """Learn from the packs what the database does not know of them; returns how many packs were new."""
        return fsck.reindex(self._db, self._objects, self._clock)
