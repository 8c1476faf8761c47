"""What a spec needs from the world around it: repos, secrets, an environment, and no way back to itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from posixpath import normpath

from sqlalchemy.engine import Connection

from trunkline.core.ids import DEFAULT_PROJECT, TreeHash, check_name, check_pipeline_name
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError
from trunkline.pipelines import store
from trunkline.pipelines.egress.base import OpenTarget
from trunkline.pipelines.inputs import leaves
from trunkline.pipelines.spec import PfsInput, PipelineSpec, leaves_of
from trunkline.secrets.service import SecretsService
from trunkline.settings import Settings
from trunkline.users import user_of
from trunkline.versioning.model import TreePart
from trunkline.versioning.service import VersioningService

Node = tuple[str, str]
"""Project and name of a repo, or of the pipeline that owns it."""


class SpecChecks:
    """Asked before a pipeline is created or changed."""

    def __init__(
        self,
        *,
        versioning: VersioningService,
        secrets: SecretsService,
        settings: Settings,
        open_target: OpenTarget | None = None,
    ) -> None:
        self._open_target = open_target
        self._versioning = versioning
        self._secrets = secrets
        self._settings = settings

    def check(
        self, spec: PipelineSpec, code_root: str | None, coming: Collection[Node] = frozenset()
    ) -> None:
        """``coming``: repos that are made together with it.

        :raises InvalidInputError: for a bad name, image, user or folder. :raises NotFoundError: for a missing project, repo
        or secret.
        """
        check_pipeline_name(spec.pipeline.name)
        check_name("branch", spec.output_branch)
        transform = spec.transform
        place = self._settings.environment_for(transform.image, requirements=bool(transform.requirements))
        if place.container is None:  # else it is one of the image's users
            user_of(transform.user)
        self._versioning.inspect_project(spec.pipeline.project)
        for where, leaf in leaves_of(spec.input) if spec.input is not None else ():
            if isinstance(leaf, PfsInput):
                self._check_repo(spec, where, leaf, coming)
        for wanted in spec.transform.secrets:
            self._check_secret(spec.pipeline.project, wanted.name, wanted.key)
        if spec.egress is not None and self._open_target is not None:
            self._open_target(spec.pipeline.project, spec.egress.model_dump(exclude_none=True))
        if code_root is not None:
            self._versioning.check_tree(TreeHash(code_root))
            self._check_folder(spec.transform.working_dir, TreeHash(code_root))
            self._check_requirements(spec.transform.requirements, TreeHash(code_root))

    def _check_folder(self, wanted: str, code: TreeHash) -> None:
        """What is absolute is looked for when a datum begins: it may be where only that can see it."""
        inside = "/".join(part for part in wanted.split("/") if part not in ("", "."))
        if (
            inside
            and not wanted.startswith("/")
            and not self._versioning.has_part_at(TreePart("", code, ""), inside)
        ):
            raise InvalidInputError(
                f"transform.working_dir: there is no folder {wanted!r} in the folder of transform.code",
                kind="bad_working_dir",
            )

    def _check_requirements(self, wanted: str, code: TreeHash) -> None:
        if not wanted:
            return
        try:
            is_file = not self._versioning.stat(code, normpath(f"/{wanted}")).is_dir
        except NotFoundError:
            is_file = False
        if not is_file:
            raise InvalidInputError(
                f"transform.requirements: there is no file {wanted!r} in the folder of transform.code",
                kind="bad_requirements",
            )

    def _check_repo(self, spec: PipelineSpec, where: str, leaf: PfsInput, coming: Collection[Node]) -> None:
        project, repo = leaf.project, leaf.repo
        if (project, repo) == (spec.pipeline.project, spec.pipeline.name):
            raise InvalidInputError(
                f"pipeline {project}/{repo} cannot have its own output repo as input", kind="pipeline_cycle"
            )
        if (project, repo) in coming:
            return
        try:
            self._versioning.inspect_repo(project, repo)
        except NotFoundError as error:
            flag = "" if project == DEFAULT_PROJECT else f" --project {project}"
            raise NotFoundError(
                f"input repo {project}/{repo} does not exist: create it with 'trunkline create repo {repo}{flag}'",
                kind="no_repo",
                details={"project": project, "repo": repo, "field": f"{where}.repo"},
            ) from error

    def _check_secret(self, project: str, name: str, key: str) -> None:
        secret = self._secrets.find((project, DEFAULT_PROJECT), name)
        places = project if project == DEFAULT_PROJECT else f"{project} or {DEFAULT_PROJECT}"
        if secret is None:
            raise NotFoundError(
                f"there is no secret {name} in namespace {places}: create it with 'trunkline apply -f FILE'",
                kind="no_secret",
            )
        if key and key not in secret.keys:
            raise NotFoundError(
                f"secret {name} has no key {key!r}; it has {', '.join(secret.keys) or 'none'}",
                kind="no_secret_key",
            )


def check_cycles(connection: Connection, specs: Sequence[PipelineSpec]) -> None:
    """Follow all inputs upstream: none may lead back to where it began.

    :raises ConflictError: ``pipeline_cycle``, naming the chain.
    """
    above: dict[Node, list[Node]] = {
        (other.project, other.name): [
            (leaf.project, leaf.repo) for leaf in leaves(other.spec.get("input") or {})
        ]
        for other in store.list_pipelines(connection, None)
    }
    own = {(spec.pipeline.project, spec.pipeline.name): spec for spec in specs}
    above |= {node: [(leaf.project, leaf.repo) for leaf in spec.pfs_inputs] for node, spec in own.items()}
    for node in own:
        chain = chain_back(node, above)
        if chain is not None:
            raise cycle_of(chain)


def cycle_of(chain: Sequence[Node]) -> ConflictError:
    """The error that names a cycle."""
    said = " <- ".join("/".join(one) for one in chain)
    return ConflictError(f"this would make a cycle: {said}", kind="pipeline_cycle")


def chain_back(start: Node, above: Mapping[Node, Sequence[Node]]) -> list[Node] | None:
    """The shortest way upstream from a pipeline to itself, if there is one."""
    came_from: dict[Node, Node] = {}
    level = [start]
    while level:
        further: list[Node] = []
        for at in level:
            for upstream in above.get(at, ()):
                if upstream == start:
                    chain = [start, at]
                    while chain[-1] != start:
                        chain.append(came_from[chain[-1]])
                    return chain[::-1]
                if upstream not in came_from:
                    came_from[upstream] = at
                    further.append(upstream)
        level = further
    return None
