"""Keeping data: collecting garbage, checking and repairing, purging, backing up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from trunkline.errors import UnavailableError
from trunkline.storage.objects.base import ObjectStore
from trunkline.versioning.backup import BackupMaker, BackupReport
from trunkline.versioning.fsck import Checker, Findings, FsckReport, Problem, advice, bounded, reindex
from trunkline.versioning.gc import GRACE_SECONDS, Collector, GcReport, Hook
from trunkline.versioning.maintenance import exclusive, forget
from trunkline.versioning.repair import Repairer
from trunkline.versioning.roots import RootSource
from trunkline.versioning.service.base import UseCases


@contextmanager
def _room_in(folder: Path) -> Iterator[Path]:
    """A temporary folder; trouble with it is ours to tell."""
    try:
        with TemporaryDirectory(dir=folder, prefix=".backup-") as temporary:
            yield Path(temporary)
    except OSError as error:
        raise UnavailableError(
            f"the copy of the database in {folder} failed: {error.strerror or error}", kind="disk_error"
        ) from error


class Keeping(UseCases):
    """Work on the whole store. One at a time; readers and writers go on meanwhile."""

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
            if not dry_run:
                self._finish_purges()
            collector = Collector(
                db=self._db, objects=self._objects, chunk_store=self._chunks, clock=self._clock,
                sources=self._roots, grace_seconds=grace_seconds, progress=self.progress, at=at,
            )  # fmt: skip
            return collector.run(dry_run=dry_run)

    def fsck(self) -> list[Problem]:
        """Read everything; what is lost or damaged, and what needs it."""
        return self._checker().run().problems

    def check(self, *, repair: bool = False) -> FsckReport:
        """The same with figures. With ``repair`` what can be mended is, and then all is checked again.

        :raises StateError: ``busy``.
        """
        if not repair:
            with exclusive(self._db, self._clock, "fsck"), self.progress.of("fsck"):
                checker = self._checker()
                return self._report(checker, checker.run(), None)
        with exclusive(self._db, self._clock, "fsck"), self.progress.of("fsck"):
            found = self._checker().run()
            done = Repairer(
                db=self._db, objects=self._objects, chunk_store=self._chunks, clock=self._clock,
                sources=self._roots, found=found,
            ).run()  # fmt: skip
            done += self._rederive(found)
            checker = self._checker()
            return self._report(checker, checker.run(), done)

    def _finish_purges(self) -> None:
        """What an interrupted purge has left to do (see ``Purging``)."""

    def _rederive(self, found: Findings) -> list[str]:
        """Nodes of trees that something else knows how to make again."""
        done = []
        lost = {label.partition(":/")[0] for labels in found.needed_by.values() for label in labels}
        for label in sorted(lost):
            for make in self._makers:
                if make(label):
                    done.append(f"{label} was put together again")
        return done

    def learn_to_make(self, make: Callable[[str], bool]) -> None:
        """How another domain can make a tree again, given what refers to it; False if it cannot."""
        self._makers.append(make)

    def _checker(self) -> Checker:
        return Checker(
            db=self._db,
            objects=self._objects,
            chunk_store=self._chunks,
            sources=self._roots,
            progress=self.progress,
        )

    def _report(self, checker: Checker, found: Findings, done: Iterable[str] | None) -> FsckReport:
        """``done``: what a repair has mended before."""
        problems, more = bounded(found.problems)
        orphans, orphan_bytes = checker.orphans()
        return FsckReport(
            problems=problems, problems_more=more, packs=found.packs, pack_bytes=found.pack_bytes,
            roots=found.roots, orphans=orphans, orphan_bytes=orphan_bytes, repaired=tuple(done or ()),
            advice=advice(found, after_repair=done is not None),
        )  # fmt: skip

    def backup(
        self,
        target: ObjectStore,
        *,
        folder: Path,
        release: str,
        files: Mapping[str, str],
        keep: int | None = None,
    ) -> BackupReport:
        """Copy everything that is committed to another store. ``folder``: has room for a copy of the database.

        :raises CorruptionError: if a pack is lost or damaged: the backup is not finished, those before it stay.
        """
        maker = BackupMaker(
            db=self._db, objects=self._objects, target=target, clock=self._clock, progress=self.progress
        )
        with exclusive(self._db, self._clock, "backup"), self.progress.of("backup"), _room_in(folder) as room:
            return maker.run(room / "copy.db", release=release, files=files, keep=keep)

    def forget_crashed_work(self) -> None:
        """At the server's start: nothing goes on yet, whatever the rows say."""
        forget(self._db)

    def reindex(self) -> int:
        """Learn from the packs what the database does not know of them; returns how many packs were new."""
        return reindex(self._db, self._objects, self._clock)
