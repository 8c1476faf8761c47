"""Branches: names that move from commit to commit, by hand, with what they follow, or when a trigger says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.engine import Connection

from trunkline.core.ids import BranchName, check_name, new_commit_id
from trunkline.core.paths import parse_address
from trunkline.errors import AlreadyExistsError, InvalidInputError
from trunkline.versioning import commits, lineage, refs, spread, store, trigger_store, triggers
from trunkline.versioning.lineage import KEYS_PER_STATEMENT, downstream_in_order
from trunkline.versioning.model import Branch, BranchDetails, Trigger
from trunkline.versioning.service.base import UseCases
from trunkline.versioning.store import BranchRow
from trunkline.versioning.trigger_store import TriggerRow


class Branches(UseCases):
    """Branches of a repo."""

    def create_branch(
        self,
        project: str,
        address: str,
        *,
        head: str | None = None,
        provenance: Sequence[str] | None = None,
        trigger: Trigger | None = None,
        drop_trigger: bool = False,
    ) -> Branch:
        """A new branch, or an existing one of which something is changed.

        ``head``: a commit of the same repo, as an address or as what comes after its ``@``; the branch moves there.
        ``provenance``: branches of other repos that it follows from now on, in place of those that it followed; whenever one
        of them gets a commit it gets an open one, to be written and finished by hand. ``trigger``: when to move by itself.

        :raises AlreadyExistsError: ``branch_exists``, where nothing is to be changed.
        :raises InvalidInputError: ``provenance_cycle``, ``two_branches``, ``trigger_and_provenance``, ``trigger_cycle``,
            ``other_repo`` and what is wrong with a trigger. :raises StateError: ``parent_open``, ``output_branch``.
        """
        where, name = refs.parse_branch(project, address)
        check_name("branch", name)
        now = self._clock.now()
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            branch = store.find_branch(connection, repo, name)
            changes = head is not None or provenance is not None or trigger is not None or drop_trigger
            if branch is None:
                branch = store.insert_branch(connection, repo, name, now)
            elif not changes:
                raise AlreadyExistsError(f"there is a branch {branch.address} already", kind="branch_exists")
            if head is not None:
                self._move(connection, branch, head, now)
            if drop_trigger:
                trigger_store.drop(connection, branch.id)
            if provenance is not None:
                self._follow(connection, branch, provenance, now)
            if trigger is not None:
                self._set_trigger(connection, branch, trigger, now)
            return self._branches(connection, [refs.need_branch(connection, repo, name)])[0]

    def _move(self, connection: Connection, branch: BranchRow, head: str, now: float) -> None:
        if store.upstream_branches(connection, branch.id):
            commits.refuse_output(connection, branch, "its head cannot be moved by hand")
        commits.refuse_open(connection, branch)
        text = head if "@" in head or ":" in head else f"{branch.repo.address}@{head}"
        target = refs.find(connection, parse_address(text, branch.repo.project))
        if target.repo_id != branch.repo.id:
            raise InvalidInputError(
                f"{head!r} is not a commit of repo {branch.repo.address}", kind="other_repo"
            )
        commits.move_head(connection, self._publish, branch, target, now)

    def _follow(
        self, connection: Connection, branch: BranchRow, provenance: Sequence[str], now: float
    ) -> None:
        commits.refuse_owned(branch.repo, "what its branches follow is said by its pipeline")
        present = store.branches_by_id(connection, [branch.id])[branch.id]
        commits.refuse_open(connection, present)
        commits.set_provenance(
            connection, self._publish, present, provenance, new_commit_id(), now, only_with_data=True
        )

    def _set_trigger(self, connection: Connection, branch: BranchRow, trigger: Trigger, now: float) -> None:
        triggers.check(trigger)
        check_name("branch", trigger.branch)
        if store.upstream_branches(connection, branch.id):
            commits.refuse_owned(branch.repo, "its branches are moved by its pipeline")
            raise commits.exclusive(branch)
        repo = branch.repo
        source = store.find_branch(connection, repo, trigger.branch)
        if source is None:
            source = store.insert_branch(connection, repo, trigger.branch, now)
        watched: int | None = source.id
        while watched is not None:
            if watched == branch.id:
                raise InvalidInputError(
                    f"{branch.address} cannot wait for {source.address}, which waits for it: that would be a circle",
                    kind="trigger_cycle",
                )
            above = trigger_store.of_branch(connection, watched)
            watched = None if above is None else above.source_id
        row = TriggerRow(branch_id=branch.id, source_id=source.id, trigger=trigger, next_at=None)
        spread.set_trigger(connection, self._publish, row, now)

    def list_branches(self, project: str, repo: str) -> list[Branch]:
        with self._db.read() as connection:
            row = refs.need_repo(connection, project, repo)
            return self._branches(connection, store.list_branches(connection, row))

    def inspect_branch(self, project: str, address: str) -> BranchDetails:
        """:raises NotFoundError: ``no_branch``."""
        where, name = refs.parse_branch(project, address)
        with self._db.read() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            row = refs.need_branch(connection, repo, name)
            plain = self._branches(connection, [row])[0]
            above = {upstream for _, upstream in lineage.upstream_edges(connection, [row.id])}
            below = downstream_in_order(lineage.downstream_edges(connection, [row.id]), row.id)
            rows = store.branches_by_id(connection, [*above, *below])
        return BranchDetails(
            **vars(plain),
            all_provenance=tuple(sorted(rows[key].address for key in above)),
            all_subvenance=tuple(rows[key].address for key in below),
        )

    def delete_branch(self, project: str, address: str, *, force: bool = False) -> None:
        """The branch goes, its commits stay.

        :raises StateError: ``has_followers`` unless ``force``; ``owned_repo`` for the output branch of a pipeline.
        """
        where, name = refs.parse_branch(project, address)
        with self._db.write() as connection:
            repo = refs.need_repo(connection, where.project, where.repo)
            branch = refs.need_branch(connection, repo, name)
            if store.upstream_branches(connection, branch.id):
                commits.refuse_owned(
                    repo, "its output branch cannot be deleted by hand; delete the pipeline instead"
                )
            if not force:
                self._refuse_followed(connection, branch)
            store.delete_branch(connection, branch.id)

    def fire_due_triggers(self) -> float | None:
        """Move the branches whose triggers the clock calls; returns when it calls the next one. Harmless to repeat."""
        with self._db.write() as connection:
            return spread.fire_due(connection, self._publish, self._clock.now())

    def _branches(self, connection: Connection, rows: Sequence[BranchRow]) -> list[Branch]:
        made: list[Branch] = []
        for start in range(0, len(rows), KEYS_PER_STATEMENT):
            some = rows[start : start + KEYS_PER_STATEMENT]
            heads = store.head_ids(connection, some)
            edges = lineage.links_of(connection, [row.id for row in some])
            known = store.branches_by_id(connection, {key for edge in edges for key in edge})
            found = trigger_store.of_branches(connection, [row.id for row in some])
            above, below = _grouped(edges), _grouped((upstream, branch) for branch, upstream in edges)
            for row in some:
                up = sorted(known[other].address for other in above.get(row.id, ()))
                down = sorted(known[other].address for other in below.get(row.id, ()))
                made.append(
                    Branch(
                        project=row.repo.project, repo=row.repo.name, name=BranchName(row.name),
                        head=None if row.head is None else heads.get(row.head), provenance=tuple(up),
                        subvenance=tuple(down), trigger=found[row.id].trigger if row.id in found else None,
                        created_at=row.created_at,
                    )
                )  # fmt: skip
        return made


def _grouped(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
