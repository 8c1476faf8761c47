"""Projects."""

from __future__ import annotations

from trunkline.core.ids import DEFAULT_PROJECT, check_name
from trunkline.errors import AlreadyExistsError, StateError
from trunkline.versioning import commits, history, refs, store
from trunkline.versioning.model import Project
from trunkline.versioning.service.base import UseCases


class Projects(UseCases):
    """Folders of repos."""

    def create_project(self, name: str, description: str = "") -> Project:
        """:raises AlreadyExistsError: ``project_exists``."""
        check_name("project", name)
        with self._db.write() as connection:
            if store.find_project(connection, name) is not None:
                raise AlreadyExistsError(f"there is a project {name!r} already", kind="project_exists")
            store.insert_project(connection, name, description, self._clock.now())
        return self.inspect_project(name)

    def list_projects(self) -> list[Project]:
        with self._db.read() as connection:
            return store.list_projects(connection)

    def inspect_project(self, name: str) -> Project:
        """:raises NotFoundError: ``no_project``."""
        with self._db.read() as connection:
            refs.need_project(connection, name)
            return refs.need_project(connection, name)

    def delete_project(self, name: str, *, force: bool = False) -> None:
        """:raises StateError: ``not_empty`` unless ``force``; ``owned_repo`` where a pipeline is still in it."""
        if name == DEFAULT_PROJECT:
            raise StateError(
                "the default project cannot be deleted; delete its repos instead", kind="default_project"
            )
        with self._db.write() as connection:
            refs.need_project(connection, name)
            repos = store.list_repos(connection, name)
            if repos and not force:
                names = history.named(repo.name for repo in repos)
                raise StateError(
                    f"project {name!r} still has {names}: delete what is in it first, or use --force",
                    kind="not_empty",
                )
            for repo in repos:
                commits.refuse_owned(repo, "delete the pipeline first")
            for repo in repos:
                self._delete_repo(connection, repo, force=True)
            store.delete_project(connection, name)
