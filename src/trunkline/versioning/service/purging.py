"""Purging content from all history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Row

from trunkline.core.paths import clean_path, parse_address
from trunkline.errors import InvalidInputError, NotFoundError, StateError, UnavailableError
from trunkline.versioning import keepstore, refs, trees
from trunkline.versioning.maintenance import exclusive
from trunkline.versioning.nodes import Ref
from trunkline.versioning.purge import (
    SCANS_MAX,
    WAIT_SECONDS,
    Content,
    Eraser,
    Holder,
    Purge,
    Scanner,
    described,
    rewrite,
)
from trunkline.versioning.service.keeping import Keeping

LISTED_MAX = 1000

Lineage = Callable[[Sequence[Holder], Sequence[str]], Mapping[str, Sequence[str]]]
"""What other domains built from those trees and commits: names by kind. ``live services`` among them refuse the purge."""


class Purging(Keeping):
    """Content leaves all history; the record of it stays."""

    def purge(
        self,
        project: str,
        address: str,
        *,
        everywhere: bool = False,
        force: bool = False,
        dry_run: bool = False,
        who: str = "",
        why: str = "",
        lineage: Lineage = lambda holders, commits: {},
        at: Callable[[str], None] = lambda step: None,
    ) -> Purge:
        """Remove a file, or a directory, from every commit of a repo, and its bytes from the disk. ``everywhere``: from every
        other tree that holds the same content, too; without it, such a tree is an error.

        :raises NotFoundError: ``no_file``. :raises StateError: ``held_elsewhere``, ``in_use``, ``needs_force`` or ``busy``.
        """
        where = parse_address(address, project)
        if where.branch is not None or where.commit is not None or where.path in (None, "/"):
            raise InvalidInputError(
                f"{address!r} does not name a path of a whole repo: write repo:/path", kind="bad_address"
            )
        path = clean_path(where.path or "/")
        with exclusive(self._db, self._clock, "purge"), self.progress.of("purge"):
            if not dry_run:
                self._finish_purges()
            scanner = Scanner(self._db, self._chunks, self._roots)
            with self._db.read() as connection:
                repo = refs.need_repo(connection, where.project, where.repo)
                roots = keepstore.trees_of_repo(connection, repo.id)
            contents = scanner.contents_at(roots, path)
            if not contents:
                raise NotFoundError(
                    f"no commit of {repo.address} has {path} with anything in it: there is nothing to purge",
                    kind="no_file",
                )
            holders = scanner.holders(contents)
            report = self._lineage(holders, lineage)
            _check(holders, report, repo.address, path, everywhere=everywhere, force=force)
            purge = Purge(
                id=None, project=where.project, repo=where.repo, path=path, everywhere=everywhere, who=who, why=why,
                state="dry-run", contents=tuple(described(contents)), report=report, created_at=self._clock.now(),
            )  # fmt: skip
            if dry_run:
                return purge
            purge_id = self._rewrite_all(scanner, contents, holders, purge, at)
            at("rewritten")
            self._finish_purges(at)
            with self._db.read() as connection:
                return _purge(next(row for row in keepstore.list_purges(connection) if row.id == purge_id))

    def list_purges(self) -> list[Purge]:
        """What was purged, oldest first."""
        with self._db.read() as connection:
            return [_purge(row) for row in keepstore.list_purges(connection)]

    def _lineage(self, holders: Sequence[Holder], lineage: Lineage) -> dict[str, Any]:
        rows = [root for holder in holders for root in holder.referred_by]
        commits = [root.key for root in rows if root.kind == "commits.root"]
        with self._db.read() as connection:
            made = keepstore.downstream(connection, [(key[0], key[1], key[2]) for key in commits])
        ids = sorted({key[2] for key in commits} | {name.rpartition("@")[2] for name in made})
        found_in = [
            f"{root.label}:/{key.decode(errors='replace')}"
            for holder in holders
            for root in holder.referred_by
            for key in holder.keys
        ]
        report: dict[str, Any] = {"found_in": found_in[:LISTED_MAX], "found_in_count": len(found_in)}
        report["commits made from it"] = made[:LISTED_MAX]
        for kind, names in lineage(holders, ids).items():
            report[kind] = sorted(set(names))[:LISTED_MAX]
        return report

    def _rewrite_all(
        self,
        scanner: Scanner,
        contents: dict[Content, Any],
        holders: Sequence[Holder],
        purge: Purge,
        at: Callable[[str], None],
    ) -> int:
        """The trees, until none is left that holds any of it: writers may have made more meanwhile."""
        chunks = sorted(name.hex() for name in scanner.chunks_of(contents))
        purge_id: int | None = None
        for _ in range(SCANS_MAX):
            with self._chunks.writer() as writer:
                load = self._nodes.loader(writer.get)
                fresh: dict[str, Ref] = {}
                for holder in holders:
                    edits = [(key, None) for key in sorted(holder.keys)]
                    fresh[holder.root] = trees.edit(load, writer.add, bytes.fromhex(holder.root), edits)
                writer.finish()
                at("trees stored")
                with self._db.write() as connection:
                    if purge_id is None:
                        purge_id = keepstore.add_purge(
                            connection, project=purge.project, repo=purge.repo, path=purge.path, who=purge.who,
                            why=purge.why, everywhere=purge.everywhere, state="erasing", chunks=chunks,
                            contents=list(purge.contents), report=purge.report, created_at=purge.created_at,
                        )  # fmt: skip
                    for old, new in fresh.items():
                        rewrite(connection, self._roots, old, new, purge_id)
            if not self._chunks.writers.wait_for_present(WAIT_SECONDS):
                break
            holders = scanner.holders(contents)
            if not holders:
                return purge_id
        raise UnavailableError(
            f"{purge.path} is being written again while it is purged: repeat the purge when that has ended",
            kind="in_use",
        )

    def _finish_purges(self, at: Callable[[str], None] = lambda step: None) -> None:
        """Take the bytes of purges off the disk whose trees are rewritten."""
        with self._db.read() as connection:
            unfinished = keepstore.unfinished_purges(connection)
        for row in unfinished:
            self._chunks.writers.begin_collecting()
            try:
                shared = Eraser(
                    db=self._db, objects=self._objects, chunk_store=self._chunks, clock=self._clock,
                    sources=self._roots, progress=self.progress, at=at,
                ).run(row.chunks)  # fmt: skip
            finally:
                self._chunks.writers.end_collecting()
            report = {**row.report, "chunks shared with other files": shared}
            with self._db.write() as connection:
                keepstore.update_purge(connection, row.id, state="done", chunks=[], report=report)

    def _purged(self, project: str, repo: str, path: str) -> NotFoundError | None:
        """What to say of a path that is not there, if it was purged."""
        with self._db.read() as connection:
            row = keepstore.purge_of(connection, project, repo, path)
        if row is None:
            return None
        day = datetime.fromtimestamp(row.created_at, UTC).strftime("%Y-%m-%d")
        reason = f" ({row.why})" if row.why else ""
        return NotFoundError(
            f"{project}/{repo}:{path} was purged on {day}{reason}", kind="purged", details={"purge": row.id}
        )


def _check(
    holders: Sequence[Holder],
    report: Mapping[str, Any],
    repo: str,
    path: str,
    *,
    everywhere: bool,
    force: bool,
) -> None:
    below = path[1:].encode()
    elsewhere, registered, working = [], list(report.get("live services", ())), []
    for holder in holders:
        for root in holder.referred_by:
            is_here = root.kind == "commits.root" and f"{root.key[0]}/{root.key[1]}" == repo
            others = [key for key in holder.keys if not (key == below or key.startswith(below + b"/"))]
            if (not is_here or others) and root.kind != "tree_holds.root":
                elsewhere.append(root.label)
            if root.kind.startswith("model_versions."):
                registered.append(root.label)
            if root.kind == "datums.inputs":
                working.append(root.label)
    if working:
        raise StateError(
            f"{working[0]} is being worked on and needs it: wait for the job, or stop it", kind="in_use"
        )
    if elsewhere and not everywhere:
        places = sorted(set(elsewhere))
        some = ", ".join(places[:5])
        count = f"{len(places)} other place{'s' if len(places) > 1 else ''}"
        raise StateError(
            f"the content of {path} is in {count}, too ({some}): say --everywhere to purge it there",
            kind="held_elsewhere",
            details={"places": places[:LISTED_MAX]},
        )
    if registered and not force:
        raise StateError(
            f"{registered[0]} holds the content itself and would be broken: say --force if that is meant",
            kind="needs_force",
            details={"places": sorted(set(registered))[:LISTED_MAX]},
        )


def _purge(row: Row[Any]) -> Purge:
    return Purge(
        id=row.id, project=row.project, repo=row.repo, path=row.path, everywhere=row.everywhere, who=row.who,
        why=row.why, state=row.state, contents=tuple(row.contents), report=row.report, created_at=row.created_at,
    )  # fmt: skip
