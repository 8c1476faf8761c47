"""What creating or changing a pipeline would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from trunkline.errors import NotFoundError
from trunkline.pipelines.datums import datum_id
from trunkline.pipelines.inputs import combinations, leaves
from trunkline.pipelines.model import Pipeline
from trunkline.pipelines.planning import Planner, Preview, sources_of
from trunkline.versioning.model import Commit
from trunkline.versioning.service import VersioningService

DATUMS_MAX = 10_000


@dataclass(frozen=True, kw_only=True)
class PreviewedDatum:
    id: str
    files: tuple[str, ...]
    """``repo:path`` of each."""


@dataclass(frozen=True, kw_only=True)
class PipelinePreview:
    pipeline: Pipeline
    """As it would be."""
    is_new: bool
    changes: tuple[str, ...]
    """Fields of the spec that are not as they are now."""
    work: Preview
    """What its first job would have to do with what the inputs hold now."""
    datums: tuple[PreviewedDatum, ...]
    """The first of all its datums."""


def heads_of(versioning: VersioningService, spec: Mapping[str, Any]) -> dict[str, Commit]:
    """What the inputs of an effective spec hold now: the newest good commit of each; none where nothing was committed."""
    found: dict[str, Commit] = {}
    for leaf in leaves(spec["input"]):
        try:
            commit, root, _ = versioning.resolve(leaf.project, f"{leaf.repo}@{leaf.branch}")
        except NotFoundError:
            continue
        found[leaf.source] = replace(commit, root=root)
    return found


def first_datums(
    planner: Planner, spec: Mapping[str, Any], commits: Mapping[str, Commit], limit: int
) -> Iterator[PreviewedDatum]:
    """The first datums of a spec, whatever was done of them before."""
    matches = planner.matches(sources_of(spec["input"], commits))
    for combination in islice(combinations(spec["input"], matches), min(limit, DATUMS_MAX)):
        yield PreviewedDatum(
            id=datum_id(combination), files=tuple(f"{seen.repo}:{seen.path}" for seen in combination)
        )


def changed_fields(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """The paths of what differs between two effective specs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            yield from changed_fields(old.get(name), new.get(name), f"{where}.{name}" if where else name)
    elif old != new:
        yield where
