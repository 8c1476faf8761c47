"""Merging one line of history into a branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from trunkline.core.paths import parse_address
from trunkline.errors import ConflictError, InvalidInputError, StateError
from trunkline.versioning import commits, historystore, merging, refs, store, trees
from trunkline.versioning.lookalikes import refuse_lookalikes
from trunkline.versioning.merging import Decision, Strategy, Summary
from trunkline.versioning.model import CommitStatus, Merge, MergeConflict, TreeInfo
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.service.trees import tree_info
from trunkline.versioning.store import BranchRow, StoredCommit
from trunkline.versioning.trees import Edit

CONFLICTS_MAX = 1000
NAMED_MAX = 3
ATTEMPTS_MAX = 100
_BATCH_COMMITS = 256


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """What is to be merged."""

    source: StoredCommit
    target: BranchRow
    base: StoredCommit | None
    base_root: bytes
    ours: bytes
    theirs: bytes

    @property
    def is_up_to_date(self) -> bool:
        return self.base is not None and self.base.pk == self.source.pk


class Merging(UseCases):
    """``merge branch``."""

    def merge_branch(
        self,
        project: str,
        source: str,
        target: str,
        *,
        description: str = "",
        strategy: Strategy | None = None,
        dry_run: bool = False,
    ) -> Merge:
        """Bring what has changed in ``source`` (a branch, tag or commit) since the nearest common ancestor into the branch
        ``target``, as one new commit with an ID of its own; all or nothing. Where the target has it all, nothing is made.

        :raises ConflictError: ``merge_conflict`` without a strategy; ``details`` has the first thousand and their number.
        :raises StateError: ``no_common_ancestor``, ``parent_open``, ``commit_open`` or ``output_branch``.
        """
        for _ in range(ATTEMPTS_MAX):
            with self._db.read() as connection:
                sides = _sides(connection, *self._ends(connection, project, source, target))
            if sides.is_up_to_date:
                return _merge(sides, Summary(0, 0, 0, [], 0), is_up_to_date=True)
            summary = merging.summarize(self._decide(sides), strategy, CONFLICTS_MAX)
            if summary.conflict_count and strategy is None:
                raise _conflict(source, target, summary)
            if dry_run:
                return _merge(sides, summary)
            tree = self._merged(sides, strategy)
            with self._db.write() as connection:
                branch, found = self._ends(connection, project, source, target)
                if (branch, found.pk) == (sides.target, sides.source.pk):
                    text = description or f"merge {source} into {target}"
                    return self._commit(connection, sides, tree, summary, text)
        raise ConflictError(
            f"{target}: other writers were faster {ATTEMPTS_MAX} times; try again", kind="busy"
        )

    def _decide(self, sides: _Sides) -> Iterator[Decision]:
        return merging.decide(self._load, sides.base_root, sides.ours, sides.theirs)

    def _merged(self, sides: _Sides, strategy: Strategy | None) -> TreeInfo:
        if sides.ours == sides.base_root:  # the target has not moved: it is the source's tree, nodes and all
            return tree_info(trees.root_ref(self._load, sides.theirs))
        with self._chunks.writer() as writer:
            load = self._nodes.loader(writer.get, writer.get_many)
            decisions = merging.decide(load, sides.base_root, sides.ours, sides.theirs)
            named: list[bytes] = []
            ref = trees.edit(load, writer.add, sides.ours, _noting(merging.edits(decisions, strategy), named))
            if not self._lookalikes:
                refuse_lookalikes(load, ref.hash, named)
            writer.finish()
            self._hold(ref)
        return tree_info(ref)

    def _commit(
        self, connection: Connection, sides: _Sides, tree: TreeInfo, summary: Summary, description: str
    ) -> Merge:
        now = self._clock.now()
        made = commits.commit_whole(connection, self._publish, sides.target, tree, description, now)
        historystore.add_merges(connection, [(made.pk, sides.source.pk)])
        return _merge(sides, summary, made=made)

    def _ends(
        self, connection: Connection, project: str, source: str, target: str
    ) -> tuple[BranchRow, StoredCommit]:
        where, name = refs.parse_branch(project, target)
        repo = refs.need_repo(connection, where.project, where.repo)
        refs.refuse_tag(connection, repo, name)
        branch = refs.need_branch(connection, repo, name)
        commits.refuse_output(connection, branch, "nothing can be merged into it by hand")
        commits.refuse_open(connection, branch)
        wanted = parse_address(source, where.project)
        if wanted.path is not None or where.path is not None:
            raise InvalidInputError("a merge is of whole commits: leave out the path", kind="bad_address")
        found = refs.find(connection, wanted)
        if found.repo_id != repo.id:
            raise InvalidInputError(
                f"{source} and {target} are of different repos, which have no history in common: "
                "use 'copy file' to bring files over",
                kind="other_repo",
            )
        if found.commit.status is CommitStatus.OPEN:
            raise StateError(
                f"commit {found.commit.address} is open: finish it, then merge it", kind="commit_open"
            )
        return branch, found


def _noting(edits: Iterable[Edit], named: list[bytes]) -> Iterator[Edit]:
    """The same edits; the files that they put, and whose names are not plain ASCII, are noted."""
    for key, entry in edits:
        if entry is not None and not key.isascii():
            named.append(key)
        yield key, entry


def _sides(connection: Connection, target: BranchRow, source: StoredCommit) -> _Sides:
    base = _base(connection, target, source)
    return _Sides(
        source=source,
        target=target,
        base=base,
        base_root=_root(connection, None if base is None else base.pk),
        ours=_root(connection, target.head),
        theirs=_root(connection, source.pk),
    )


def _base(connection: Connection, target: BranchRow, source: StoredCommit) -> StoredCommit | None:
    """None where the target has no commits yet: everything comes after that."""
    if target.head is None:
        return None

    def fetch(pk: int) -> Mapping[int, list[int]]:
        steps = historystore.steps_up(connection, pk, _BATCH_COMMITS)
        merged = historystore.sources_of(connection, [step.pk for step in steps])
        return {
            step.pk: [*([] if step.parent is None else [step.parent]), *merged.get(step.pk, ())]
            for step in steps
        }

    found = merging.nearest_common(target.head, source.pk, merging.known_parents(fetch))
    if found is None:
        raise StateError(
            f"{source.commit.address} and branch {target.address} have no commit in common, so there is nothing to "
            "compare them with: use 'copy file' to bring files over",
            kind="no_common_ancestor",
        )
    return store.commit_by_pk(connection, found)


def _root(connection: Connection, pk: int | None) -> bytes:
    root = store.shown_tree(connection, pk)[0]
    return EMPTY_ROOT if root is None else bytes.fromhex(root)


def _conflict(source: str, target: str, summary: Summary) -> ConflictError:
    count = summary.conflict_count
    first = ", ".join(f"{path} ({reason})" for path, reason in summary.conflicts[:NAMED_MAX])
    more = f" and {count - NAMED_MAX} more" if count > NAMED_MAX else ""
    return ConflictError(
        f"{source} and {target} contradict each other in {count} file{'s' if count != 1 else ''}, so nothing was merged: "
        f"{first}{more}; make them agree, or choose with --strategy ours or theirs",
        kind="merge_conflict",
        details={
            "count": count,
            "conflicts": [{"path": path, "reason": reason} for path, reason in summary.conflicts],
        },
    )


def _merge(
    sides: _Sides, summary: Summary, *, made: StoredCommit | None = None, is_up_to_date: bool = False
) -> Merge:
    return Merge(
        commit=None if made is None else made.commit,
        base=None if sides.base is None else sides.base.commit.id,
        is_up_to_date=is_up_to_date,
        added=summary.added,
        deleted=summary.deleted,
        changed=summary.changed,
        conflicts=tuple(MergeConflict(path=path, reason=reason) for path, reason in summary.conflicts),
        conflict_count=summary.conflict_count,
    )
