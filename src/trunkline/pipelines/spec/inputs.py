"""The ``input`` of a spec: its fields, what is filled in, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trunkline.core.cron import parse_schedule
from trunkline.core.ids import DEFAULT_BRANCH, NAME_LENGTH_MAX, is_name
from trunkline.core.paths import Glob
from trunkline.core.sizes import parse_size
from trunkline.errors import InvalidInputError
from trunkline.pipelines.inputs import NESTED, captures_used
from trunkline.pipelines.spec.fields import NotSupported, SpecModel, dropped

LEAVES_MAX = 100
DEPTH_MAX = 20


class Problem(NamedTuple):
    """What is wrong, and where in the spec."""

    where: str
    what: str
    kind: str = "bad_spec"


class Trigger(SpecModel):
    """When the input moves on to the newest commit, if not at each: a branch is made that waits."""

    branch: str = ""
    """The branch that is watched; filled in."""
    size: str | None = None
    commits: int | None = Field(default=None, ge=0)
    rate_limit_spec: str | None = None
    cron_spec: str | None = None
    all: bool = False


class PropagationSpec(SpecModel):
    never: bool = False


def _rfc3339(value: Any) -> Any:
    if value in (None, ""):
        return None
    if isinstance(value, datetime):  # YAML knows times
        value = value.isoformat()
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise PydanticCustomError("bad_time", "is no time: write it as 2026-01-31T00:00:00Z")
    return str(value)


class CronInput(SpecModel):
    """A tick now and then: an empty file, named by its time, in a repo that the pipeline makes for it."""

    name: str
    project: str = ""
    repo: str = ""
    commit: NotSupported = None
    spec: str
    start: Annotated[str | None, BeforeValidator(_rfc3339)] = None
    """Ticks are made from here on; by default from when the pipeline is made."""
    overwrite: bool = False
    """Only the newest tick is kept."""
    catch_up: Literal["all", "last", "none"] = "all"
    """trunkline's own: which of the ticks are made that were missed while the server was down."""


class PfsInput(SpecModel):
    name: str = ""
    project: str = ""
    repo: str
    repo_type: Literal["", "user"] = "user"
    branch: str = "master"
    glob: str
    commit: NotSupported = None
    join_on: str = ""
    outer_join: bool = False
    group_by: str = ""
    lazy: bool = False
    empty_files: bool = False
    s3: bool = False
    reference: bool = False
    trigger: Trigger | None = None
    propagation_spec: PropagationSpec | None = None


class Input(SpecModel):
    """Exactly one of them."""

    pfs: PfsInput | None = None
    cross: list[Input] | None = None
    union: list[Input] | None = None
    join: list[Input] | None = None
    group: list[Input] | None = None
    cron: CronInput | None = None
    git: Annotated[
        Any,
        dropped("put what is cloned into a repo (put file -r), or clone it in a pipeline with a cron input"),
    ] = None

    @model_validator(mode="after")
    def _one(self) -> Input:
        said = [name for name in ("pfs", *NESTED, "cron") if getattr(self, name) is not None]
        if len(said) > 1:
            raise PydanticCustomError(
                "two_inputs", "{both} cannot stand beside each other: put them into a cross or a union",
                {"both": " and ".join(said)},
            )  # fmt: skip
        return self

    @property
    def nested(self) -> tuple[str, list[Input]] | None:
        return next(((name, found) for name in NESTED if (found := getattr(self, name)) is not None), None)


def leaves_of(node: Input, where: str = "input") -> Iterator[tuple[str, PfsInput | CronInput]]:
    """All ``pfs`` and ``cron`` inputs, from left to right, each with its place in the spec."""
    for kind, leaf in (("pfs", node.pfs), ("cron", node.cron)):
        if isinstance(leaf, PfsInput | CronInput):
            yield f"{where}.{kind}", leaf
    nested = node.nested
    if nested is not None:
        for number, child in enumerate(nested[1]):
            yield from leaves_of(child, f"{where}.{nested[0]}[{number}]")


def fill_in(root: Input, project: str, pipeline: str) -> None:
    """What a spec leaves out: names, projects, the repos of cron inputs, the branches that triggers move."""
    for number, (_, leaf) in enumerate(leaves_of(root), 1):
        leaf.project = leaf.project or project
        if isinstance(leaf, CronInput):
            leaf.project = project  # its repo is the pipeline's own
            leaf.repo = f"{pipeline}_{leaf.name}"
            continue
        leaf.name = leaf.name or leaf.repo
        leaf.branch = leaf.branch or DEFAULT_BRANCH
        if leaf.glob and not leaf.glob.startswith("/"):
            leaf.glob = "/" + leaf.glob
        if leaf.trigger is not None:
            own = f"{pipeline}-trigger-{number}"
            if leaf.branch != own:  # else it is an effective spec that is read again
                leaf.trigger.branch = leaf.trigger.branch or leaf.branch
                leaf.branch = own


def problems_of(root: Input) -> Iterator[Problem]:
    """All that is wrong with an input, after ``fill_in``."""
    if _depth(root) > DEPTH_MAX or len(found := list(leaves_of(root))) > LEAVES_MAX:
        yield Problem("input", f"is too large: at most {LEAVES_MAX} inputs, nested at most {DEPTH_MAX} deep")
        return
    shape = list(_problems_of_shape(root, "input"))
    yield from shape
    for where, leaf in found:
        yield from _problems_of_leaf(where, leaf)
    yield from _problems_of_places(found)
    if not shape:
        yield from _names(root, "input")[1]


def _depth(node: Input) -> int:
    level, depth = [node], 0
    while level and depth <= DEPTH_MAX:
        level = [child for one in level if one.nested is not None for child in one.nested[1]]
        depth += 1
    return depth


def _problems_of_shape(node: Input, where: str, inside: str = "") -> Iterator[Problem]:
    if node.pfs is None and node.cron is None and node.nested is None:
        yield Problem(where, f"say what the input is: one of pfs, {', '.join(NESTED)}, cron")
    if node.pfs is not None and node.pfs.s3 and inside in ("join", "group", "union"):
        yield Problem(
            f"{where}.pfs.s3", f"an s3 input cannot be in a {inside}: it is a whole branch, not a file"
        )
    if node.nested is None:
        return
    kind, children = node.nested
    if not children:
        yield Problem(f"{where}.{kind}", "is empty: list the inputs to combine")
    for number, child in enumerate(children):
        at = f"{where}.{kind}[{number}]"
        yield from _problems_of_shape(child, at, kind if kind != "cross" else inside)
        if kind in ("join", "group"):
            field = "join_on" if kind == "join" else "group_by"
            if not _has_key(child, field):
                yield Problem(at, f"{field} is missing: for example '$1', with a glob as '/(*).png'")


def _has_key(node: Input, field: str) -> bool:
    """Whether all datums of an input have something to be joined or grouped by."""
    if node.pfs is not None:
        return bool(getattr(node.pfs, field))
    if node.nested is None:
        return False
    kind, children = node.nested
    return (all if kind == "union" else any)(_has_key(child, field) for child in children)


def _problems_of_leaf(where: str, leaf: PfsInput | CronInput) -> Iterator[Problem]:
    if leaf.name in ("out", ".env") or not is_name(leaf.name):
        yield Problem(
            f"{where}.name", f"{leaf.name!r} is not allowed: use letters, digits, '-' and '_', and not 'out'"
        )
    for field in ("project", "repo") if isinstance(leaf, CronInput) else ("project", "repo", "branch"):
        name = getattr(leaf, field)
        if not is_name(name):
            rule = f"use letters, digits, '-' and '_', at most {NAME_LENGTH_MAX}"
            yield Problem(f"{where}.{field}", f"{name!r} is not allowed: {rule}")
    if isinstance(leaf, CronInput):
        yield from _about(f"{where}.spec", lambda: parse_schedule(leaf.spec))
        return
    yield from _problems_of_glob(where, leaf)
    if leaf.s3:
        if leaf.glob != "/":
            yield Problem(f"{where}.glob", "must be '/' for an s3 input, which is a whole branch")
        for field in ("lazy", "empty_files"):
            if getattr(leaf, field):
                yield Problem(f"{where}.{field}", "says nothing for an s3 input, which is not read as files")
    if leaf.lazy and leaf.empty_files:
        yield Problem(
            f"{where}.empty_files", "and lazy exclude each other: files are empty, or filled when opened"
        )
    if leaf.trigger is not None:
        yield from _problems_of_trigger(f"{where}.trigger", leaf)


def _problems_of_glob(where: str, leaf: PfsInput) -> Iterator[Problem]:
    problem = "it is empty"
    if leaf.glob:
        try:
            count = Glob(leaf.glob).captures
        except InvalidInputError as error:
            problem = error.message
        else:
            for field in ("join_on", "group_by"):
                missing = [
                    number for number in captures_used(getattr(leaf, field)) if not 1 <= number <= count
                ]
                if missing:
                    brackets = f"{count} pairs of brackets" if count != 1 else "one pair of brackets"
                    yield Problem(
                        f"{where}.{field}", f"${missing[0]} is not there: the glob {leaf.glob} has {brackets}"
                    )
            return
    yield Problem(
        f"{where}.glob",
        f"{problem}; for example '/' is all as one datum, '/*' is one datum for each file or folder at the top",
        "bad_glob",
    )


def _problems_of_trigger(where: str, leaf: PfsInput) -> Iterator[Problem]:
    trigger = leaf.trigger
    assert trigger is not None, "the caller has looked"
    if not is_name(trigger.branch):
        yield Problem(f"{where}.branch", f"{trigger.branch!r} is no name for a branch")
    size = trigger.size
    if size:
        yield from _about(f"{where}.size", lambda: parse_size(size))
    for field in ("rate_limit_spec", "cron_spec"):
        text = getattr(trigger, field)
        if text:
            yield from _about(f"{where}.{field}", lambda text=text: parse_schedule(text))
    if trigger.cron_spec and (trigger.size or trigger.commits or trigger.rate_limit_spec):
        yield Problem(f"{where}.cron_spec", "stands alone: to combine a time with others use rate_limit_spec")


def _about(where: str, check: Any) -> Iterator[Problem]:
    try:
        check()
    except InvalidInputError as error:
        yield Problem(where, error.message)


def _problems_of_places(found: list[tuple[str, PfsInput | CronInput]]) -> Iterator[Problem]:
    """Inputs of one name and branch are one folder to the command: it must look the same for all datums."""
    known: dict[tuple[str, ...], PfsInput | CronInput] = {}
    for where, leaf in found:
        if isinstance(leaf, CronInput):
            if ("", leaf.name) in known:
                yield Problem(f"{where}.name", f"{leaf.name!r} is another cron input already")
            known["", leaf.name] = leaf
            continue
        other = known.setdefault((leaf.name, leaf.project, leaf.repo, leaf.branch), leaf)
        for field in ("lazy", "empty_files", "s3", "reference"):
            if getattr(other, field) != getattr(leaf, field):
                yield Problem(
                    f"{where}.{field}",
                    f"differs from that of the other input {leaf.name!r} of the same branch",
                )


def _names(node: Input, where: str) -> tuple[set[str], list[Problem]]:
    """The names in an input. Only the parts of a union may share one: no datum has two of them."""
    if node.pfs is not None or node.cron is not None:
        leaf = node.pfs or node.cron
        assert leaf is not None, "one of them is there"
        return {leaf.name}, []
    nested = node.nested
    assert nested is not None, "there is one of them"
    kind, children = nested
    names: set[str] = set()
    problems: list[Problem] = []
    for number, child in enumerate(children):
        at = f"{where}.{kind}[{number}]"
        own, inner = _names(child, at)
        problems += inner
        if kind != "union":
            problems += [
                Problem(at, f"there is another input named {name!r}: give one of them a name of its own")
                for name in sorted(names & own)
            ]
        names |= own
    return names, problems
