"""What a job has to do: in which datums it differs from its base. Reads and decides; writes nothing.

The *base* is the nearest job before that succeeded with the same code and the same tree of inputs. Beside it, a plan costs what
changed in the inputs. Without one (the first job, changed code, inputs that were purged since) every datum is looked at, in a
stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy.engine import Connection

from trunkline.core.ids import CommitId, ProjectName, RepoName, TreeHash
from trunkline.core.paths import Glob
from trunkline.core.status import Status
from trunkline.errors import NotFoundError
from trunkline.pipelines import datum_store, inputs, store
from trunkline.pipelines.datum_store import NewDatum
from trunkline.pipelines.datums import (
    Code,
    code_changes,
    datum_id,
    digest_of_code,
    digest_of_version,
    environment_of,
    identity,
)
from trunkline.pipelines.inputs import Combination, Leaf, Match, Matches, Pair
from trunkline.pipelines.model import JobInput, Pipeline
from trunkline.pipelines.results import Result, known_results
from trunkline.pipelines.store import JobRow
from trunkline.settings import Settings
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import Commit, DiffEntry, FileInfo, TreePart
from trunkline.versioning.nodes import EMPTY_ROOT
from trunkline.versioning.service import VersioningService

BATCH = 500
"""Datums looked at together: what is made of each is short-lived, so Python's collector need not go through it."""
FILES_NAMED_MAX = 10
SAMPLES_MAX = 20
NEW = {"kind": "new"}
"""Why a datum is done that no job has seen. One object for all of them, of which there may be very many."""
NO_JOB = 2**62
"""The number of a job that is not made yet: later than all."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    inputs: list[JobInput]
    code: str
    """Digest of code, parameters and input tree."""
    base: JobRow | None
    base_root: TreeHash | None
    rows: Iterable[NewDatum]
    total: int | None
    """Of all datums; None: there is a row for each."""
    datums_expected: int | None
    """At most so many datums have rows; None: it is not known before these are made."""
    has_results: bool
    """Whether results of earlier jobs may be used."""


@dataclass(kw_only=True)
class Preview:
    """What a job would have to do."""

    total: int = 0
    unchanged: int = 0
    cached: int = 0
    removed: int = 0
    to_do: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """How many of those to do are there for which reason."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """``{id, files, why}`` of the first."""


class Inexact(Exception):  # noqa: N818  (it is no error: there is another way)
    """What a datum had made is not known any more, so a base cannot be built on."""


def code_of(pipeline: Pipeline, settings: Settings, job_id: str) -> Code:
    """What decides the results of a pipeline's datums, besides their inputs."""
    # What a service does, or writes by S3, is no result that could be used again.
    every_job = pipeline.spec.get("reprocess_spec") == "every_job" or any(
        pipeline.spec.get(name) for name in ("service", "s3_out")
    )
    transform = pipeline.spec["transform"]
    place = settings.environment_for(transform["image"], requirements=bool(transform.get("requirements")))
    return Code(
        transform=transform,
        environment=place.identity(),
        code_root=pipeline.code_root,
        salt=f"{pipeline.salt}/{job_id}" if every_job else pipeline.salt,
    )


class Planner:
    """Plans of jobs, and what follows from the same look at inputs: previews, and the datums that have no row."""

    def __init__(self, *, db: Database, versioning: VersioningService, settings: Settings) -> None:
        self._db = db
        self._versioning = versioning
        self._settings = settings

    # --- the plan ---

    def plan(
        self,
        pipeline: Pipeline,
        pipeline_id: int | None,
        job: str,
        before: int,
        commits: Mapping[str, Commit],
    ) -> Plan:
        """``before``: the job's number. ``commits``: its inputs, by branch.

        :raises InvalidInputError: for a glob that is none.
        """
        sources = sources_of(pipeline.spec["input"], commits)
        code = code_of(pipeline, self._settings, job)
        spec_input = pipeline.spec["input"]
        digest = digest_of_code(code, spec_input)
        version = digest_of_version(digest, spec_input)
        has_results = not pipeline.spec.get("s3_out")
        with self._db.read() as connection:
            base = None
            if pipeline_id is not None:
                base = store.last_succeeded(connection, pipeline_id, before, version)
        base_root = self._exact_root(base) if base is not None and base.job.total else None
        if base is not None and base_root is not None:
            try:
                rows, count, total = self._delta(pipeline_id or 0, spec_input, digest, base, sources)
                return Plan(
                    inputs=sources, code=version, base=base, base_root=base_root, rows=rows, datums_expected=count,
                    total=total, has_results=has_results,
                )  # fmt: skip
            except Inexact:
                pass
        rows_of_all = self._all(pipeline, pipeline_id, before, digest, code, sources)
        return Plan(
            inputs=sources, code=version, base=None, base_root=None, rows=rows_of_all, datums_expected=None,
            total=None, has_results=has_results,
        )  # fmt: skip

    def _exact_root(self, base: JobRow) -> TreeHash | None:
        """The output of a job, if that and its inputs are as they were: nothing was purged or removed since."""
        try:
            for one in base.job.inputs:
                if one.commit:
                    commit = self._versioning.inspect_commit(one.project, f"{one.repo}@{one.commit}")
                    if (commit.root or "") != one.root:
                        return None
            output = self._versioning.inspect_commit(base.job.project, f"{base.job.pipeline}@{base.job.id}")
        except NotFoundError:
            return None
        return output.root if output.error is None and output.root is not None else None

    def _delta(
        self,
        pipeline_id: int,
        spec_input: Mapping[str, Any],
        digest: str,
        base: JobRow,
        sources: list[JobInput],
    ) -> tuple[Iterator[NewDatum], int, int]:
        """The rows, of how many datums they are at most (besides those that are gone), and how many datums there are in all."""
        old, new = list(base.job.inputs), sources
        differ = _Differ(self._versioning, old, new)
        removed, added = inputs.changes(spec_input, self.matches(old), self.matches(new), differ)
        gone = {datum_id(one): one for one in removed}
        came = {datum_id(one): one for one in added}
        total = base.job.total + len(came) - len(gone)
        place = places(sources)
        with self._db.read() as connection:
            undone = {
                row.id: row for row in datum_store.with_status(connection, base.pk, *datum_store.UNDONE)
            }
            before = {one: identity(combination, digest) for one, combination in gone.items()}
            outputs = _outputs_before(connection, pipeline_id, base.pk, before)

        def rows() -> Iterator[NewDatum]:
            for one, combination in came.items():
                was = gone.pop(one, None)
                new_identity = identity(combination, digest)
                if was is not None and before[one] == new_identity and one not in undone:
                    continue
                why = _why_changed(was, combination)
                if one in undone:
                    why = {**why, "kind": "again", "was": undone[one].status}
                yield NewDatum(
                    id=one, identity=new_identity, files=files_of(combination, place), env=environment_of(combination),
                    why=why, old_identity=before.get(one), old=outputs.get(one),
                )  # fmt: skip
            for one, combination in gone.items():
                yield NewDatum(
                    id=one, identity=before[one], files=files_of(combination, place), env={}, why={"kind": "removed"},
                    old_identity=before[one], old=outputs.get(one), is_removed=True,
                )  # fmt: skip
            for one, row in undone.items():
                if one not in before and one not in came:
                    why = {"kind": "again", "was": row.status, "from": base.job.id}
                    yield NewDatum(id=one, identity=row.identity, files=row.files, env=row.env, why=why)

        return rows(), len(came.keys() | undone.keys()), total

    def _all(
        self,
        pipeline: Pipeline,
        pipeline_id: int | None,
        before: int,
        digest: str,
        code: Code,
        sources: list[JobInput],
    ) -> Iterator[NewDatum]:
        with self._db.read() as connection:
            last = None
            if pipeline_id is not None:
                last = store.last_succeeded(connection, pipeline_id, before)
        why_all = self._why_all(pipeline, last, code) if last is not None else {}
        place = places(sources)
        found = inputs.combinations(pipeline.spec["input"], self.matches(sources))
        while part := list(islice(found, BATCH)):
            ids = [datum_id(one) for one in part]
            known: dict[str, list[Any]] = {}
            if last is not None and last.job.total:
                with self._db.read() as connection:
                    known = datum_store.latest(connection, last.pipeline_id, last.pk, ids)
            for one, combination in zip(ids, part, strict=True):
                files = files_of(combination, place)
                yield NewDatum(
                    id=one, identity=identity(combination, digest), files=files, env=environment_of(combination),
                    why=_why(files, known.get(one, ()), why_all, sources),
                )  # fmt: skip

    def _why_all(self, pipeline: Pipeline, last: JobRow, code: Code) -> dict[str, Any]:
        """Why datums are done again whose files have not changed."""
        with self._db.read() as connection:
            old = store.get_pipeline(connection, pipeline.project, pipeline.name, last.job.version)
        if old is None:
            return {"kind": "again"}
        old_code = code_of(old, self._settings, last.job.id)
        if changed := code_changes(old_code, code):
            return {"kind": "code", "code": changed}
        return {"kind": "forced" if old_code.salt != code.salt else "again"}

    # --- what inputs hold ---

    def matches(self, sources: Sequence[JobInput]) -> Matches:
        roots = {_place_of_source(one): one.root for one in sources}

        def found(leaf: Leaf) -> Iterator[Match]:
            root = roots.get(leaf.place, "")
            if not _is_filled(root):
                return
            if leaf.glob.strip("/") == "":
                yield _match(self._versioning.stat(TreeHash(root), "/"))
                return
            for info in self._versioning.glob(TreeHash(root), leaf.glob):
                yield _match(info)

        return found

    def preview(self, pipeline: Pipeline, pipeline_id: int | None, commits: Mapping[str, Commit]) -> Preview:
        """What a job of this pipeline would do with these inputs, if it were made now; ``pipeline`` need not exist."""
        plan = self.plan(pipeline, pipeline_id, "preview", NO_JOB, commits)
        found = Preview()
        rows = iter(plan.rows)
        while part := list(islice(rows, BATCH)):
            with self._db.read() as connection:
                known = known_results(connection, [row.identity for row in part]) if plan.has_results else {}
            for row in part:
                if row.is_removed:
                    found.removed += 1
                elif row.identity in known:
                    found.cached += 1
                else:
                    kind = row.why["kind"]
                    found.to_do += 1
                    found.kinds[kind] = found.kinds.get(kind, 0) + 1
                    if len(found.samples) < SAMPLES_MAX:
                        names = [f"{plan.inputs[file[0]].repo}:{file[1]}" for file in row.files]
                        found.samples.append({"id": row.id, "files": names, "why": row.why})
        found.total = found.to_do + found.cached if plan.total is None else plan.total
        found.unchanged = found.total - found.to_do - found.cached
        return found

    def datums_of(self, pipeline: Pipeline, row: JobRow) -> Iterator[tuple[str, str, Combination]]:
        """``(id, identity, what it sees)`` of every datum of a planned job, by listing its inputs again.

        :raises NotFoundError: if these are not there any more.
        """
        spec_input = pipeline.spec["input"]
        digest = digest_of_code(code_of(pipeline, self._settings, row.job.id), spec_input)
        for one in row.job.inputs:
            if _is_filled(one.root):
                self._versioning.stat(TreeHash(one.root), "/")
        for combination in inputs.combinations(spec_input, self.matches(row.job.inputs)):
            yield datum_id(combination), identity(combination, digest), combination

    def outputs_of(self, pipeline: Pipeline, row: JobRow) -> list[TreePart]:
        """The outputs of all datums of a job that succeeded, also of those that it did not touch.

        :raises Inexact: if one of them is not known any more.
        """
        found: list[TreePart] = []
        datums = self.datums_of(pipeline, row)
        place = places(row.job.inputs)
        while part := list(islice(datums, BATCH)):
            wanted = {one: identity for one, identity, _ in part}
            seen = {one: files_of(combination, place) for one, _, combination in part}
            with self._db.read() as connection:
                outputs = _outputs_before(connection, row.pipeline_id, row.pk, wanted)
            for one, result in outputs.items():
                if result is not None and result.root is not None:
                    label = datum_store.label(seen[one], row.job.inputs)
                    found.append(TreePart(label, TreeHash(result.root), result.prefix))
        return found


def sources_of(spec_input: Mapping[str, Any], commits: Mapping[str, Commit]) -> list[JobInput]:
    """The inputs of a job, one for each place that the input tree names; without a commit where nothing was ever committed."""
    found: dict[Any, JobInput] = {}
    for leaf in inputs.leaves(spec_input):
        commit = commits.get(leaf.source)
        found[leaf.place] = JobInput(
            name=leaf.name, project=ProjectName(leaf.project), repo=RepoName(leaf.repo), branch=leaf.branch,
            commit=CommitId("") if commit is None else commit.id,
            root="" if commit is None else (commit.root or ""),
        )  # fmt: skip
    return list(found.values())


def places(sources: Sequence[JobInput]) -> dict[tuple[str, str, str, str], int]:
    return {_place_of_source(one): number for number, one in enumerate(sources)}


def _place_of_source(one: JobInput) -> tuple[str, str, str, str]:
    return one.name, one.project, one.repo, one.branch


def files_of(combination: Combination, place: Mapping[Any, int]) -> list[list[Any]]:
    """``[number of the input, path, hash, size]`` of each file that a datum sees."""
    return [[place[seen[:4]], seen.path, seen.hash, seen.size] for seen in combination]


def _is_filled(root: str) -> bool:
    return bool(root) and root != EMPTY_ROOT.hex()


def _match(info: FileInfo) -> Match:
    return Match(info.path, info.hash, info.size, info.groups or ())


def _match_of(info: FileInfo | None, captures: tuple[str, ...]) -> Match | None:
    return None if info is None else Match(info.path, info.hash, info.size, captures)


def _outputs_before(
    connection: Connection, pipeline_id: int, up_to: int, identities: Mapping[str, str]
) -> dict[str, Result | None]:
    """What datums had made, given by ID with the identity they had.

    :raises Inexact: if that is not known of one of them.
    """
    rows = datum_store.latest(connection, pipeline_id, up_to, identities)
    found: dict[str, Result | None] = {}
    missing: dict[str, str] = {}
    for one, wanted in identities.items():
        row = next((row for row in rows.get(one, ()) if row.identity == wanted), None)
        if row is None:
            missing[one] = wanted
        elif row.status in (Status.SUCCEEDED, Status.SKIPPED):
            found[one] = Result(row.output_root, row.output_prefix, row.size, row.file_count, row.job_id)
        else:
            found[one] = None
    known = known_results(connection, list(missing.values()))
    for one, wanted in missing.items():
        if wanted not in known:
            raise Inexact
        found[one] = known[wanted]
    return found


def _why_changed(old: Combination | None, new: Combination) -> dict[str, Any]:
    if old is None:
        return NEW
    before, after = set(old), set(new)
    differ = dict.fromkeys(
        f"{seen.repo}:{seen.path}" for seen in (*new, *old) if (seen in before) != (seen in after)
    )
    return {"kind": "changed", "files": list(differ)[:FILES_NAMED_MAX]}


def _why(
    files: list[list[Any]], known: Sequence[Any], why_all: dict[str, Any], sources: Sequence[JobInput]
) -> dict[str, Any]:
    if not known or known[0].status == Status.REMOVED:
        return NEW
    before = {(file[1], file[2]) for file in known[0].files}
    differ = [
        f"{sources[number].repo}:{path}" for number, path, digest, _ in files if (path, digest) not in before
    ]
    if differ:
        return {**why_all, "kind": "changed", "files": differ[:FILES_NAMED_MAX]}
    return why_all


class _Differ:
    """What differs in the matches of a leaf: found from the files that differ, never by listing."""

    def __init__(
        self, versioning: VersioningService, old: Sequence[JobInput], new: Sequence[JobInput]
    ) -> None:
        self._versioning = versioning
        self._old = {_place_of_source(one): one.root for one in old}
        self._new = {_place_of_source(one): one.root for one in new}

    def __call__(self, leaf: Leaf) -> list[Pair]:
        old, new = self._old.get(leaf.place, ""), self._new.get(leaf.place, "")
        if old == new:
            return []
        glob = Glob(leaf.glob)
        before, after = self._looker(old, glob), self._looker(new, glob)
        pairs: list[Pair] = []
        for path, (entry, captures) in sorted(self._candidates(old, new, glob).items()):
            if entry is None:
                pairs += _pairs(before(path), after(path))
            else:
                pairs += _pairs(_match_of(entry.old, captures), _match_of(entry.new, captures))
        return sorted(pairs, key=lambda pair: (pair[0] or pair[1] or Match("", "", 0)).path)

    def _candidates(
        self, old: str, new: str, glob: Glob
    ) -> dict[str, tuple[DiffEntry | None, tuple[str, ...]]]:
        """The paths that match, at or above a file that differs, with what the glob captures; and with what is there, where it is
        no more than that file."""
        empty = TreeHash(EMPTY_ROOT.hex())
        start = glob.literal_prefix.rpartition("/")[0] or "/"
        found: dict[str, tuple[DiffEntry | None, tuple[str, ...]]] = {}
        for entry in self._versioning.diff(TreeHash(old or empty), TreeHash(new or empty), start):
            info = entry.new or entry.old
            assert info is not None, "one of them is there"
            for path, captures in _at_or_above(info.path, glob):
                found[path] = (entry if path == info.path and path not in found else None, captures)
        return found

    def _looker(self, root: str, glob: Glob) -> Callable[[str], Match | None]:
        def look(path: str) -> Match | None:
            if not _is_filled(root):
                return None
            try:
                info = self._versioning.stat(TreeHash(root), path)
            except NotFoundError:
                return None
            return Match(info.path, info.hash, info.size, glob.match(path) or ())

        return look


def _at_or_above(path: str, glob: Glob) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What matches of a path and the directories above it, with what the glob captures."""
    parts = path.split("/")[1:]
    if glob.depth == 0:
        yield "/", ()
        return
    depths = range(1, len(parts) + 1) if glob.depth is None else [glob.depth]
    for depth in depths:
        candidate = "/" + "/".join(parts[:depth])
        if depth <= len(parts) and (captures := glob.match(candidate)) is not None:
            yield candidate, captures


def _pairs(old: Match | None, new: Match | None) -> Iterator[Pair]:
    if old is not None and new is not None and old.path == new.path:
        if old.hash != new.hash:
            yield old, new
        return
    if old is not None:
        yield old, None
    if new is not None:
        yield None, new
