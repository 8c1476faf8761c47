"""Projects, repos, branches and commits: what Pachyderm's users expect, and one clear line for everything else."""

from __future__ import annotations

import pytest

from tests.conftest import FakeClock
from tests.versioning.conftest import contents, events, open_service, put, shown
from trunkline.core.ids import new_commit_id
from trunkline.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StateError
from trunkline.storage.db.engine import Database
from trunkline.storage.objects.base import ObjectStore
from trunkline.testing.stores import Stores
from trunkline.versioning.model import Commit, CommitStatus, DeletePath, Origin, TreeInfo
from trunkline.versioning.service import VersioningService


@pytest.fixture(autouse=True)
def repo(versioning: VersioningService) -> None:
    versioning.create_repo("default", "data", "pictures")


class TestNames:
    def test_projects(self, versioning: VersioningService) -> None:
        assert [p.name for p in versioning.list_projects()] == ["default"]
        assert versioning.create_project("team", "ours").description == "ours"
        with pytest.raises(AlreadyExistsError, match="team"):
            versioning.create_project("team")
        versioning.create_repo("team", "data")
        assert [r.project for r in versioning.list_repos()] == ["default", "team"]
        assert [r.name for r in versioning.list_repos("team")] == ["data"]
        with pytest.raises(StateError, match="--force"):
            versioning.delete_project("team")
        versioning.delete_project("team", force=True)
        with pytest.raises(NotFoundError, match="team"):
            versioning.inspect_project("team")
        with pytest.raises(StateError):
            versioning.delete_project("default", force=True)

    def test_repos(self, versioning: VersioningService) -> None:
        with pytest.raises(AlreadyExistsError, match="data"):
            versioning.create_repo("default", "data")
        assert versioning.create_repo("default", "data", "new", update=True).description == "new"
        versioning.modify("default", "data@master", [put("/x", b"12345")])
        found = versioning.inspect_repo("default", "data")
        assert (found.size, found.branches, found.owner) == (5, ("master",), None)
        with pytest.raises(NotFoundError, match=r"'dota'.*did you mean 'data'"):
            versioning.inspect_repo("default", "dota")
        with pytest.raises(NotFoundError, match="'other'"):
            versioning.create_repo("other", "x")
        with pytest.raises(InvalidInputError, match="'a b'"):
            versioning.create_repo("default", "a b")
        versioning.delete_repo("default", "data")
        assert versioning.list_repos() == []
        with pytest.raises(NotFoundError):
            versioning.delete_repo("default", "data")

    def test_branches(self, versioning: VersioningService) -> None:
        assert versioning.create_branch("default", "data@empty").head is None
        first = versioning.modify("default", "data@master", [put("/x", b"1")])
        versioning.modify("default", "data@master", [put("/x", b"2")])
        assert versioning.create_branch("default", "data@old", head="master^").head == first.id
        assert shown(versioning, "data@old") == {"/x": b"1"}
        versioning.modify("default", "data@old", [put("/y", b"3")])
        assert shown(versioning, "data@old") == {"/x": b"1", "/y": b"3"}
        assert shown(versioning, "data@master") == {"/x": b"2"}
        assert versioning.create_branch("default", "data@old", head=first.id).head == first.id
        with pytest.raises(AlreadyExistsError, match="old"):
            versioning.create_branch("default", "data@old")
        assert [b.name for b in versioning.list_branches("default", "data")] == ["empty", "master", "old"]
        versioning.delete_branch("default", "data@old")
        with pytest.raises(NotFoundError, match="old"):
            versioning.inspect_branch("default", "data@old")
        with pytest.raises(NotFoundError, match="no commits yet"):
            versioning.resolve("default", "data@empty")
        versioning.create_repo("default", "other")
        versioning.modify("default", "other@master", [])
        with pytest.raises(InvalidInputError, match="not a commit of repo"):
            versioning.create_branch("default", "data@x", head="other@master")


class TestCommits:
    def test_a_write_is_one_finished_commit(self, versioning: VersioningService, db: Database) -> None:
        made = versioning.modify("default", "data@master", [put("/a", b"1"), put("/b", b"22")], "two files")
        assert (made.status, made.origin, made.size, made.file_count) == (
            CommitStatus.FINISHED,
            Origin.USER,
            3,
            2,
        )
        assert made.description == "two files"
        assert events(db) == [("commit.finished", "data@master", made.id, None)]
        assert versioning.inspect_commit("default", "data") == made
        again = versioning.modify("default", "data@master", [DeletePath(path="/a")])
        assert (again.parent, again.file_count) == (made.id, 1)
        assert [c.id for c in versioning.list_commits("default", "data")] == [again.id, made.id]
        assert [c.id for c in versioning.list_commits("default", "data", branch="master", limit=1)] == [
            again.id
        ]

    def test_open_commits(self, versioning: VersioningService, db: Database) -> None:
        versioning.modify("default", "data@master", [put("/a", b"1")])
        opened = versioning.start_commit("default", "data@master", "slowly")
        assert shown(versioning, "data@master") == {"/a": b"1"}
        with pytest.raises(StateError, match=f"{opened.id}, has not been finished"):
            versioning.start_commit("default", "data@master")
        with pytest.raises(StateError, match="finish it first"):
            versioning.create_branch("default", "data@master", head="master^")
        versioning.modify("default", "data@master", [put("/b", b"2")])
        written = versioning.modify("default", f"data@{opened.id}", [put("/c", b"3")])
        assert (written.id, written.status, written.file_count) == (opened.id, CommitStatus.OPEN, 3)
        finished = versioning.finish_commit("default", "data@master")
        assert (finished.id, finished.description, finished.file_count) == (opened.id, "slowly", 3)
        with pytest.raises(StateError, match="finished already"):
            versioning.finish_commit("default", f"data@{opened.id}")
        with pytest.raises(StateError, match="write to its branch instead"):
            versioning.modify("default", f"data@{opened.id}", [put("/d")])
        assert events(db)[-1] == ("commit.finished", "data@master", opened.id, None)
        assert len(events(db)) == 2

    def test_ancestry(self, versioning: VersioningService) -> None:
        made = [versioning.modify("default", "data@master", [put("/n", b"%d" % i)]) for i in range(4)]

        def found(ref: str) -> str:
            return versioning.inspect_commit("default", f"data@{ref}").id

        assert found("master") == made[3].id
        assert found("master^") == found("master~") == made[2].id
        assert (
            found("master^^")
            == found("master^2")
            == found("master~2")
            == found(f"{made[3].id}^2")
            == made[1].id
        )
        assert found("master.1") == made[0].id
        assert found("master.4") == made[3].id
        assert found(f"master={made[1].id}") == made[1].id
        for ref in ("master^4", "master.5"):
            with pytest.raises(NotFoundError, match="has 3 ancestors"):
                found(ref)
        with pytest.raises(NotFoundError, match="not on branch"):
            versioning.create_branch("default", "data@other")
            found(f"other={made[1].id}")
        with pytest.raises(NotFoundError, match="no commit"):
            found("0" * 32)
        with pytest.raises(InvalidInputError, match="ancestor"):
            versioning.modify("default", "data@master^", [])

    def test_what_is_asked_wrongly_is_told_before_data_is_read(self, versioning: VersioningService) -> None:
        def changes() -> object:
            raise AssertionError("read")
            yield

        for address in ("nowhere@master", f"data@{'0' * 32}"):
            with pytest.raises(NotFoundError):
                versioning.modify("default", address, changes())  # type: ignore[arg-type]

    def test_a_failing_source_leaves_nothing(self, versioning: VersioningService, db: Database) -> None:
        def changes():  # type: ignore[no-untyped-def]
            yield put("/a", b"1")
            raise RuntimeError("the client went away")

        with pytest.raises(RuntimeError):
            versioning.modify("default", "data@master", changes())
        assert versioning.list_branches("default", "data") == []
        assert events(db) == []

    def test_everything_is_there_after_reopening(
        self, versioning: VersioningService, stores: Stores, objects: ObjectStore, clock: FakeClock
    ) -> None:
        opened = versioning.start_commit("default", "data@master")
        versioning.modify("default", "data@master", [put("/a", b"1")])
        db = Database(stores.database_url)
        again = open_service(db, objects, clock)
        assert shown(again, f"data@{opened.id}") == {"/a": b"1"}
        assert again.inspect_repo("default", "data").description == "pictures"
        db.close()


class TestProvenance:
    """data@master -> model@master -> deploy@master, and data@master -> deploy@master."""

    @pytest.fixture
    def dag(self, versioning: VersioningService, db: Database) -> str:
        commit_id = new_commit_id()
        with db.write() as connection:
            for name in ("model", "deploy"):
                versioning.create_owned_repo(connection, "default", name, f"pipeline:{name}", "")
        self.follow(versioning, db, "model", ["data@master"], commit_id)
        self.follow(
            versioning, db, "deploy", ["default/model@master", "default/data@master"], new_commit_id()
        )
        return commit_id

    @staticmethod
    def follow(
        service: VersioningService, db: Database, repo: str, upstream: list[str], commit_id: str
    ) -> None:
        with db.write() as connection:
            service.set_provenance(connection, "default", repo, "master", upstream, commit_id=commit_id)  # type: ignore[arg-type]

    @staticmethod
    def finish(
        service: VersioningService,
        db: Database,
        repo: str,
        commit_id: str,
        tree: TreeInfo | None = None,
        error: str | None = None,
    ) -> None:
        with db.write() as connection:
            service.finish_output(connection, "default", repo, commit_id, tree=tree, error=error)

    @staticmethod
    def inputs(service: VersioningService, db: Database, repo: str, commit_id: str) -> dict[str, Commit]:
        with db.read() as connection:
            return service.inputs_of(connection, "default", repo, commit_id)

    def test_one_change_opens_all_that_follows(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        before = len(events(db))
        made = versioning.modify("default", "data@master", [put("/a", b"1")])
        assert events(db)[before:] == [
            ("commit.opened", "model@master", made.id, None),
            ("commit.opened", "deploy@master", made.id, None),
            ("commit.finished", "data@master", made.id, None),
        ]
        whole = versioning.inspect_commit_set(made.id)
        assert [(c.repo, c.origin, c.status) for c in whole.commits] == [
            ("data", Origin.USER, CommitStatus.FINISHED),
            ("model", Origin.AUTO, CommitStatus.OPEN),
            ("deploy", Origin.AUTO, CommitStatus.OPEN),
        ]
        assert whole.commits[2].provenance == (f"default/data@{made.id}", f"default/model@{made.id}")
        assert versioning.list_commit_sets()[0] == whole
        assert self.inputs(versioning, db, "model", made.id) == {"default/data@master": made}
        assert set(self.inputs(versioning, db, "deploy", made.id)) == {
            "default/data@master",
            "default/model@master",
        }

    def test_a_pipeline_starts_with_one_open_commit(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        first = versioning.inspect_commit("default", "model")
        assert (first.id, first.status, first.origin, first.parent) == (
            dag,
            CommitStatus.OPEN,
            Origin.AUTO,
            None,
        )
        assert self.inputs(versioning, db, "model", dag) == {}
        assert versioning.inspect_branch("default", "data@master").head is None
        assert versioning.inspect_branch("default", "deploy").provenance == (
            "default/data@master",
            "default/model@master",
        )

    def test_a_new_follower_starts_from_the_present_heads(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        made = versioning.modify("default", "data@master", [put("/a", b"1")])
        versioning.create_branch("default", "data@copy", head="master")
        versioning.create_repo("default", "late")
        commit_id = new_commit_id()
        self.follow(versioning, db, "late", ["data@copy"], commit_id)
        assert self.inputs(versioning, db, "late", commit_id) == {"default/data@copy": made}

    def test_outputs_are_finished_by_their_job_alone(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        tree = versioning.stage([put("/model", b"weights")])
        for change in (
            lambda: versioning.finish_commit("default", "model@master"),
            lambda: versioning.start_commit("default", "model@master"),
            lambda: versioning.modify("default", "model@master", [put("/x")]),
            lambda: versioning.modify("default", "model@other", [put("/x")]),
            lambda: versioning.create_branch("default", "model@master", head="master"),
            lambda: versioning.delete_branch("default", "model@master", force=True),
            lambda: versioning.create_repo("default", "model", update=True),
        ):
            with pytest.raises(StateError):
                change()
        with pytest.raises(StateError, match="delete the pipeline instead"):
            versioning.delete_repo("default", "model", force=True)
        self.finish(versioning, db, "model", dag, tree)
        assert shown(versioning, "model@master") == {"/model": b"weights"}
        assert events(db)[-1] == ("commit.finished", "model@master", dag, None)
        with pytest.raises(StateError, match="finished already"):
            self.finish(versioning, db, "model", dag, tree)
        made = versioning.modify("default", "data@master", [put("/a")])
        with pytest.raises(StateError, match="not the output"):
            self.finish(versioning, db, "data", made.id, tree)

    def test_readers_skip_what_failed_or_is_not_there_yet(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        self.finish(versioning, db, "model", dag, versioning.stage([put("/model", b"good")]))
        bad = versioning.modify("default", "data@master", [put("/a", b"bad")])
        assert shown(versioning, f"model@{bad.id}") == {"/model": b"good"}
        self.finish(versioning, db, "model", bad.id, error="datum 1 failed")
        found, root, path = versioning.resolve("default", "model@master:/model")
        assert (found.id, found.error, path) == (bad.id, "datum 1 failed", "/model")
        assert contents(versioning, root) == {"/model": b"good"}
        assert events(db)[-1] == ("commit.finished", "model@master", bad.id, "datum 1 failed")

    def test_an_id_leads_to_what_it_was_made_from(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        versioning.create_repo("default", "labels")
        labels = versioning.modify("default", "labels@master", [put("/l")])
        versioning.create_repo("default", "joined")
        self.follow(versioning, db, "joined", ["data@master", "labels@master"], new_commit_id())
        made = versioning.modify("default", "data@master", [put("/a")])
        newer = versioning.modify("default", "labels@master", [put("/l", b"new")])
        assert versioning.inspect_commit("default", f"labels@{made.id}").id == labels.id
        assert versioning.inspect_commit("default", f"data@{newer.id}").id == made.id
        with pytest.raises(NotFoundError):
            versioning.inspect_commit("default", f"model@{labels.id}")

    def test_deferred_processing(self, versioning: VersioningService, db: Database, dag: str) -> None:
        staged = versioning.modify("default", "data@staging", [put("/a", b"1")])
        assert [c.repo for c in versioning.inspect_commit_set(staged.id).commits] == ["data"]
        versioning.create_branch("default", "data@master", head="staging")
        assert [c.repo for c in versioning.inspect_commit_set(staged.id).commits] == [
            "data",
            "model",
            "deploy",
        ]
        assert self.inputs(versioning, db, "model", staged.id) == {"default/data@master": staged}
        versioning.create_branch("default", "data@master", head="staging")
        again = versioning.inspect_commit("default", "model")
        assert again.id != staged.id
        assert versioning.inspect_commit("default", f"data@{again.id}").id == staged.id

    def test_cycles_and_crossings_are_refused(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        for repo, upstream in (("data", "deploy@master"), ("model", "model@master")):
            with pytest.raises(InvalidInputError, match="cycle"):
                self.follow(versioning, db, repo, [upstream], new_commit_id())
        versioning.create_repo("default", "end")
        with db.write() as connection:
            versioning.set_provenance(
                connection, "default", "end", "a", ["data@master"], commit_id=new_commit_id()
            )
        with pytest.raises(InvalidInputError, match="one branch of each repo"), db.write() as connection:
            versioning.set_provenance(
                connection, "default", "end", "b", ["model@master"], commit_id=new_commit_id()
            )
        with pytest.raises(NotFoundError, match="none"):
            self.follow(versioning, db, "end", ["none@master"], new_commit_id())
        assert versioning.inspect_branch("default", "data@master").provenance == ()

    def test_deleting_what_others_follow(self, versioning: VersioningService, db: Database, dag: str) -> None:
        versioning.modify("default", "data@master", [put("/a")])
        with pytest.raises(
            StateError, match=r"deploy@master, default/model@master follows default/data@master"
        ):
            versioning.delete_repo("default", "data")
        with pytest.raises(StateError, match="--force"):
            versioning.delete_branch("default", "data@master")
        with db.write() as connection, pytest.raises(StateError, match="does not belong"):
            versioning.delete_owned_repo(connection, "default", "deploy", "pipeline:other")
        with db.write() as connection, pytest.raises(StateError, match="follows"):
            versioning.delete_owned_repo(connection, "default", "model", "pipeline:model")
        with db.write() as connection:
            versioning.delete_owned_repo(connection, "default", "deploy", "pipeline:deploy")
        versioning.delete_repo("default", "data", force=True)
        assert [r.name for r in versioning.list_repos()] == ["model"]
        assert versioning.inspect_branch("default", "model").provenance == ()

    def test_following_nothing_any_more_opens_nothing(
        self, versioning: VersioningService, db: Database, dag: str
    ) -> None:
        self.follow(versioning, db, "model", [], new_commit_id())
        made = versioning.modify("default", "data@master", [put("/a")])
        assert [c.repo for c in versioning.inspect_commit_set(made.id).commits] == ["data", "deploy"]
        with pytest.raises(StateError, match="belongs to pipeline model"):
            versioning.modify("default", "model@master", [put("/a")])

    def test_names_that_are_taken(self, versioning: VersioningService, db: Database, dag: str) -> None:
        with db.write() as connection:
            versioning.create_owned_repo(connection, "default", "model", "pipeline:model", "again")
            with pytest.raises(AlreadyExistsError, match="data"):
                versioning.create_owned_repo(connection, "default", "data", "pipeline:data", "")
        assert versioning.inspect_repo("default", "model").description == "again"
