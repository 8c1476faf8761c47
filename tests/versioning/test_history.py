"""Squash, drop, and deleting what others depend on: what is refused, with which word, and what is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from tests.versioning.conftest import broken_references, events, put, shown, stage
from trunkline.core.ids import new_commit_id
from trunkline.errors import InvalidInputError, NotFoundError, StateError, TrunklineError
from trunkline.storage.db.engine import Database
from trunkline.storage.db.schema import commit_provenance, commits
from trunkline.versioning.model import Commit, CommitStatus, Origin
from trunkline.versioning.service import VersioningService

Refused = Callable[..., str]


@pytest.fixture
def history(versioning: VersioningService) -> list[Commit]:
    """Three commits on data@master, and a branch at the second."""
    versioning.create_repo("default", "data")
    made = [versioning.modify("default", "data@master", [put(f"/{n}", b"x")]) for n in range(3)]
    versioning.create_branch("default", "data@side", head=made[1].id)
    return made


@pytest.fixture
def dag(versioning: VersioningService, db: Database, history: list[Commit]) -> list[Commit]:
    """data@master -> model@master (a pipeline's); one more commit, whose job has succeeded."""
    with db.write() as connection:
        versioning.create_owned_repo(connection, "default", "model", "pipeline:model", "")
        versioning.set_provenance(
            connection, "default", "model", "master", ["data@master"], commit_id=new_commit_id()
        )
    finish(versioning, db, versioning.inspect_commit("default", "model@master").id)
    made = versioning.modify("default", "data@master", [put("/3", b"x")])
    finish(versioning, db, made.id)
    return [*history, made]


def finish(versioning: VersioningService, db: Database, commit_id: str) -> None:
    root = stage(versioning, {"/model": commit_id.encode()})
    tree = versioning.stage([], root)
    with db.write() as connection:
        versioning.finish_output(connection, "default", "model", commit_id, tree=tree, error=None)


def refused(kind: str, match: str, call: Callable[[], object]) -> None:
    with pytest.raises(TrunklineError, match=match) as told:
        call()
    assert told.value.kind == kind
    assert "\n" not in told.value.message


def count(db: Database, table: sa.Table) -> int:
    with db.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


class TestSquash:
    def test_children_stay_and_show_what_they_showed(
        self, versioning: VersioningService, db: Database, history: list[Commit]
    ) -> None:
        versioning.delete_branch("default", "data@side")
        gone = versioning.squash("default", "data@master^")
        assert [one.id for one in gone.commits] == [history[1].id] and gone.opened == ()
        assert versioning.inspect_commit("default", "data@master").parent == history[0].id
        assert shown(versioning, "data@master") == {"/0": b"x", "/1": b"x", "/2": b"x"}
        assert [one.id for one in versioning.list_commits("default", "data", branch="master")] == [
            history[2].id,
            history[0].id,
        ]
        assert events(db)[-1] == ("commit.squashed", "data@master", history[1].id, None)
        refused(
            "no_commit", "no commit", lambda: versioning.inspect_commit("default", f"data@{history[1].id}")
        )

    def test_the_first_commit_can_go(self, versioning: VersioningService, history: list[Commit]) -> None:
        versioning.squash("default", f"data@{history[0].id}")
        assert versioning.inspect_commit("default", "data@master.1").id == history[1].id
        assert versioning.inspect_commit("default", f"data@{history[1].id}").parent is None

    def test_what_is_refused(self, versioning: VersioningService, history: list[Commit]) -> None:
        squash = versioning.squash
        refused("no_child", "use 'drop commit'", lambda: squash("default", "data@master"))
        refused("is_head", r"head of default/data@side", lambda: squash("default", "data@master^"))
        opened = versioning.start_commit("default", "data@master")
        refused("child_open", f"{opened.id} is not finished", lambda: squash("default", "data@master^"))
        versioning.finish_commit("default", "data@master")
        versioning.create_tag("default", "data@v1", commit=history[0].id)
        refused("tagged", "kept by tag default/data@v1", lambda: squash("default", "data@master.1"))
        refused("bad_address", "names no commit", lambda: squash("default", "data"))
        refused("bad_address", "names a path", lambda: squash("default", "data@master:/x"))
        refused("no_commit", "no commit set", lambda: squash("default", "0" * 32))

    def test_what_was_made_from_it(
        self, versioning: VersioningService, db: Database, dag: list[Commit]
    ) -> None:
        old = dag[2].id
        more = versioning.modify("default", "data@master", [put("/4", b"x")])
        refused(
            "has_subvenance", "model@.* was made from it; use -r",
            lambda: versioning.squash("default", f"data@{old}"),
        )  # fmt: skip
        refused("child_open", "wait for it", lambda: versioning.squash("default", dag[3].id))
        finish(versioning, db, more.id)
        gone = versioning.squash("default", f"data@{old}", recursive=True)
        assert [(one.repo, one.origin) for one in gone.commits] == [
            ("data", Origin.USER),
            ("model", Origin.AUTO),
        ]
        gone = versioning.squash("default", dag[3].id)  # the whole set by its ID
        assert {one.repo for one in gone.commits} == {"data", "model"}
        assert versioning.inspect_commit("default", "model@master").id == more.id
        assert versioning.inspect_commit("default", "model@master").parent is None
        assert count(db, commit_provenance) == 1

    def test_merges_stay_known(self, versioning: VersioningService) -> None:
        versioning.create_repo("default", "data")
        versioning.modify("default", "data@master", [put("/a", b"0")])
        versioning.create_branch("default", "data@dev", head="master")
        merged = versioning.modify("default", "data@dev", [put("/a", b"1")])
        versioning.modify("default", "data@master", [put("/b", b"1")])
        versioning.merge_branch("default", "data@dev", "data@master")
        versioning.modify("default", "data@master", [put("/c", b"1")])
        versioning.modify("default", "data@dev", [put("/a", b"2")])
        versioning.squash("default", "data@master^")  # the merge itself
        again = versioning.merge_branch("default", "data@dev", "data@master")
        assert again.base == merged.id
        assert shown(versioning, "data@master")["/a"] == b"2"


class TestDrop:
    def test_heads_fall_back(
        self, versioning: VersioningService, db: Database, history: list[Commit]
    ) -> None:
        gone = versioning.drop("default", "data@master")
        assert [one.id for one in gone.commits] == [history[2].id]
        assert versioning.inspect_branch("default", "data@master").head == history[1].id
        assert shown(versioning, "data@master") == {"/0": b"x", "/1": b"x"}
        assert events(db)[-1] == ("commit.dropped", "data@master", history[2].id, None)
        versioning.drop("default", "data@side")
        versioning.drop("default", "data@master")
        assert [one.head for one in versioning.list_branches("default", "data")] == [None, None]
        made = versioning.modify("default", "data@master", [put("/new")])
        assert made.parent is None and shown(versioning, "data@master") == {"/new": b""}

    def test_an_open_commit_is_given_up(self, versioning: VersioningService, history: list[Commit]) -> None:
        versioning.start_commit("default", "data@master")
        versioning.modify("default", "data@master", [put("/wrong")])
        versioning.drop("default", "data@master")
        assert versioning.inspect_commit("default", "data@master") == history[2]

    def test_what_is_refused(self, versioning: VersioningService, history: list[Commit]) -> None:
        refused(
            "has_children", f"has the child default/data@{history[2].id}: use 'squash commit'",
            lambda: versioning.drop("default", f"data@{history[1].id}"),
        )  # fmt: skip
        versioning.create_tag("default", "data@keep", commit="master")
        refused("tagged", "delete the tag first", lambda: versioning.drop("default", "data@master"))
        versioning.delete_tag("default", "data@keep")
        versioning.drop("default", "data@master")

    def test_what_was_made_from_it(
        self, versioning: VersioningService, db: Database, dag: list[Commit]
    ) -> None:
        last = dag[3].id
        refused(
            "has_subvenance", rf"default/model@{last} was made from it; use -r .* ID alone",
            lambda: versioning.drop("default", "data@master"),
        )  # fmt: skip
        gone = versioning.drop("default", last)
        assert {(one.repo, one.id) for one in gone.commits} == {("data", last), ("model", last)}
        assert gone.opened == ()
        assert versioning.inspect_commit("default", "model@master").provenance == (
            f"default/data@{dag[2].id}",
        )
        gone = versioning.drop("default", "data@master", recursive=True)
        assert {one.repo for one in gone.commits} == {"data", "model"}
        # The model's branch had one commit from the beginning; it follows data, so it gets a new one.
        assert [(one.repo, one.status) for one in gone.opened] == [("model", CommitStatus.OPEN)]
        assert gone.opened[0].provenance == (f"default/data@{dag[1].id}",)
        assert events(db)[-1][:2] == ("commit.opened", "model@master")

    def test_an_output_alone_is_made_anew(
        self, versioning: VersioningService, db: Database, dag: list[Commit]
    ) -> None:
        gone = versioning.drop("default", "model@master")
        assert [one.repo for one in gone.commits] == ["model"]
        now = versioning.inspect_commit("default", "model@master")
        assert gone.opened == (now,) and now.id != dag[3].id
        assert now.provenance == (f"default/data@{dag[3].id}",)

    def test_an_id_does_not_lead_astray(self, versioning: VersioningService, dag: list[Commit]) -> None:
        """For reading, ``data@<ID of the first model>`` is the data that it was made from; nobody wants to drop that."""
        first = versioning.list_commits("default", "model")[-1].id
        assert versioning.inspect_commit("default", f"data@{first}").id == dag[2].id
        refused(
            "no_commit", f"name default/data@{dag[2].id}", lambda: versioning.drop("default", f"data@{first}")
        )

    def test_two_inputs(self, versioning: VersioningService, db: Database, dag: list[Commit]) -> None:
        """What is left of one input meets the newest of the other."""
        versioning.create_repo("default", "labels")
        labels = versioning.modify("default", "labels@master", [put("/l")])
        with db.write() as connection:
            versioning.set_provenance(
                connection, "default", "model", "master", ["data@master", "labels@master"],
                commit_id=new_commit_id(),
            )  # fmt: skip
        newer = versioning.modify("default", "data@master", [put("/5")])
        last = versioning.modify("default", "labels@master", [put("/l", b"2")])
        gone = versioning.drop("default", f"data@{newer.id}", recursive=True)
        assert {(one.repo, one.id) for one in gone.commits} == {
            ("data", newer.id), ("model", newer.id), ("model", last.id),
        }  # fmt: skip
        assert gone.opened[0].provenance == (f"default/data@{dag[3].id}", f"default/labels@{last.id}")
        assert labels.id != last.id


class TestDeleting:
    def test_a_repo_that_others_were_made_from(
        self, versioning: VersioningService, db: Database, dag: list[Commit]
    ) -> None:
        refused("no_repo", "no repo 'dota'", lambda: versioning.delete_repo("default", "dota"))
        refused(
            "has_followers", "default/model@master follows default/data@master.*--force",
            lambda: versioning.delete_repo("default", "data"),
        )  # fmt: skip
        refused(
            "owned_repo", "delete the pipeline instead",
            lambda: versioning.delete_repo("default", "model", force=True),
        )  # fmt: skip
        before = shown(versioning, "model@master")
        versioning.delete_repo("default", "data", force=True)
        assert shown(versioning, "model@master") == before
        assert versioning.inspect_branch("default", "model@master").provenance == ()
        assert versioning.inspect_commit("default", "model@master").provenance == ()
        with db.read() as connection:
            assert not broken_references(connection)
        assert count(db, commits) == len(versioning.list_commits("default", "model"))

    def test_a_branch_that_others_follow(self, versioning: VersioningService, dag: list[Commit]) -> None:
        refused(
            "has_followers", "model@master follows default/data@master",
            lambda: versioning.delete_branch("default", "data@master"),
        )  # fmt: skip
        before = versioning.inspect_commit("default", "model@master")
        versioning.delete_branch("default", "data@master", force=True)
        assert versioning.inspect_commit("default", "model@master") == before
        assert versioning.inspect_commit("default", f"data@{dag[3].id}").id == dag[3].id

    def test_tags_need_force(self, versioning: VersioningService, db: Database, dag: list[Commit]) -> None:
        versioning.create_tag("default", "model@v1", commit="master")
        with db.write() as connection:
            versioning.set_provenance(connection, "default", "model", "master", [], commit_id=new_commit_id())
        refused(
            "tagged", "repo default/data is kept by tag default/model@v1",
            lambda: versioning.delete_repo("default", "data"),
        )  # fmt: skip
        with db.write() as connection, pytest.raises(StateError, match="kept by tag"):
            versioning.delete_owned_repo(connection, "default", "model", "pipeline:model")
        versioning.delete_repo("default", "data", force=True)
        assert shown(versioning, "model@v1")
        with db.write() as connection:
            versioning.delete_owned_repo(connection, "default", "model", "pipeline:model", force=True)
        assert versioning.list_repos() == []

    def test_a_project(self, versioning: VersioningService) -> None:
        versioning.create_project("team")
        versioning.create_repo("team", "data")
        versioning.create_repo("default", "mine")
        versioning.modify("team", "data@master", [put("/a")])
        versioning.create_tag("team", "data@v1", commit="master")
        refused("not_empty", "still has data", lambda: versioning.delete_project("team"))
        refused("no_project", "'tem'.*did you mean 'team'", lambda: versioning.delete_project("tem"))
        versioning.delete_project("team", force=True)
        assert [one.name for one in versioning.list_repos()] == ["mine"]


def test_a_range_of_commits_is_not_understood(versioning: VersioningService, history: list[Commit]) -> None:
    with pytest.raises((InvalidInputError, NotFoundError)):
        versioning.drop("default", f"data@{history[0].id}..{history[1].id}")
