"""Following a branch, and listing what is on it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.versioning.conftest import put
from trunkline.errors import InvalidInputError, NotFoundError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import branches, commits
from trunkline.versioning.model import Commit, Origin
from trunkline.versioning.service import VersioningService
from trunkline.versioning.service import following as module


@pytest.fixture(autouse=True)
def repo(versioning: VersioningService) -> None:
    versioning.create_repo("default", "data")


def commit(service: VersioningService, address: str = "data@master") -> str:
    return service.modify("default", address, [put("/f", address.encode())]).id


def ids(commits: list[Commit]) -> list[str]:
    return [one.id for one in commits]


class TestFollowing:
    def test_each_once_in_order_as_they_are_finished(
        self, versioning: VersioningService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "COMMITS_PER_LOOK", 3)
        made = [commit(versioning) for _ in range(5)]
        following = versioning.follow_commits("default", "data@master")
        assert ids(following.next()) == made[:3]
        opened = versioning.start_commit("default", "data@master").id
        assert ids(following.next()) == made[3:]
        assert following.next() == []
        versioning.finish_commit("default", "data@master")
        last = commit(versioning)
        assert ids(following.next()) == [opened, last]
        assert following.next() == []
        assert ids(versioning.follow_commits("default", "data@master", after=made[4]).next()) == [
            opened,
            last,
        ]

    def test_as_soon_as_they_are_there(self, versioning: VersioningService) -> None:
        versioning.create_branch("default", "data@master")
        following = versioning.follow_commits("default", "data@master", finished=False)
        assert following.next() == []
        opened = versioning.start_commit("default", "data@master").id
        assert ids(following.next()) == [opened]
        versioning.finish_commit("default", "data@master")
        assert following.next() == []

    def test_a_branch_that_is_moved(self, versioning: VersioningService) -> None:
        versioning.create_branch("default", "data@master")
        following = versioning.follow_commits("default", "data@master")
        made = [commit(versioning, "data@staging") for _ in range(3)]
        versioning.create_branch("default", "data@master", head=made[1])
        assert ids(following.next()) == made[:2]
        versioning.create_branch("default", "data@master", head=made[0])
        assert following.next() == []
        versioning.create_branch("default", "data@master", head=made[2])
        assert ids(following.next()) == made[2:]

    def test_what_comes_after_a_removed_commit_is_not_taken_for_it(
        self, versioning: VersioningService, db: Database
    ) -> None:
        made = [commit(versioning) for _ in range(2)]
        following = versioning.follow_commits("default", "data@master")
        assert ids(following.next()) == made
        with db.write() as connection:
            last = sa.select(commits.c.pk).where(commits.c.id == made[1]).scalar_subquery()
            before = sa.select(commits.c.pk).where(commits.c.id == made[0]).scalar_subquery()
            connection.execute(sa.update(branches).where(branches.c.head == last).values(head=before))
            connection.execute(sa.delete(commits).where(commits.c.id == made[1]))
        assert ids(following.next()) == []
        new = commit(versioning)
        assert ids(following.next()) == [new]

    def test_by_origin(self, versioning: VersioningService) -> None:
        versioning.create_repo("default", "views")
        commit(versioning, "views@master")
        versioning.create_branch("default", "views@master", provenance=["data@master"])
        made = commit(versioning)
        versioning.finish_commit("default", "views@master")
        following = versioning.follow_commits("default", "views@master", origin=Origin.AUTO)
        assert ids(following.next()) == [made]

    def test_what_is_not_there(self, versioning: VersioningService) -> None:
        with pytest.raises(NotFoundError, match="no branch"):
            versioning.follow_commits("default", "data@nothing")
        commit(versioning)
        with pytest.raises(NotFoundError, match="no commit"):
            versioning.follow_commits("default", "data@master", after="f" * 32)
        following = versioning.follow_commits("default", "data@master")
        versioning.delete_branch("default", "data@master")
        with pytest.raises(NotFoundError):
            following.next()


class TestListing:
    def test_since_origin_and_ancestry(
        self, versioning: VersioningService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trunkline.versioning.service.commits.HISTORY_CHUNK", 2)
        versioning.create_repo("default", "views")
        by_hand = [commit(versioning, "views@master") for _ in range(2)]
        versioning.create_branch("default", "views@master", provenance=["data@master"])
        followed = [commit(versioning) for _ in range(5)]
        everything = [*by_hand, *followed]

        def listed(repo: str = "views", **choice: object) -> list[str]:
            return ids(versioning.list_commits("default", repo, **choice))[::-1]  # type: ignore[arg-type]

        for branch in (None, "master"):
            assert listed(branch=branch) == everything
            assert listed(branch=branch, origin=Origin.USER) == by_hand
            assert listed(branch=branch, origin=Origin.AUTO, limit=3) == followed[2:]
            assert listed(branch=branch, since=by_hand[1]) == followed
            assert listed(branch=branch, since="master^3", origin=Origin.AUTO) == followed[2:]
            assert listed(branch=branch, after=followed[1], since=by_hand[0]) == [by_hand[1], followed[0]]
        assert listed(branch="master^2") == everything[:-2]
        assert listed(branch="master.3") == everything[:3]
        assert listed(branch=followed[0]) == everything[:3]
        for one in everything:  # IDs begin with digits and with letters
            assert listed(branch=one, limit=1) == [one]
        versioning.create_branch("default", "views@2026-empty")
        assert listed(branch="2026-empty") == []
        with pytest.raises(InvalidInputError):
            listed(since="data@master")
        with pytest.raises(NotFoundError):
            listed(branch="nothing")

    def test_a_branch_names_only_its_own_commits(self, versioning: VersioningService) -> None:
        made = [commit(versioning) for _ in range(3)]
        versioning.create_branch("default", "data@old", head=made[0])
        side = commit(versioning, "data@old")
        assert versioning.inspect_commit("default", f"data@old={made[0]}").id == made[0]
        assert versioning.inspect_commit("default", f"data@old={side}").id == side
        for wrong in (f"data@old={made[1]}", f"data@master={side}"):
            with pytest.raises(NotFoundError, match="not on branch"):
                versioning.inspect_commit("default", wrong)
