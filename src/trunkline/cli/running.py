"""``run``: one datum of a spec in the current folder, without a commit and without a server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.grammar import new_verb
from trunkline.cli.output import counted, say, show
from trunkline.core.ids import DEFAULT_PROJECT
from trunkline.core.paths import Glob
from trunkline.errors import InvalidInputError

if TYPE_CHECKING:
    from trunkline.pipelines.inputs import Leaf
    from trunkline.workers.local import LocalFile, LocalResult, LocalRun


Datums = Annotated[
    list[str] | None,
    typer.Option(
        "--datum", metavar="[NAME=]PATH",
        help="A local file or folder for an input (say NAME if there are several); repeatable.",
    ),
]  # fmt: skip
SpecFile = Annotated[Path | None, typer.Option("--file", "-f", help="Pipeline spec: JSON, YAML or Jsonnet.")]


def register(app: typer.Typer) -> None:
    verb = new_verb(app, "run", "")
    verb.info.help = (
        "Run one datum of a spec here, without a commit or a server; or let a cron input tick now."
    )
    verb.callback(
        invoke_without_command=True,
        epilog="Example: trunkline run --datum images/cat.png -f edges.json -o out",
    )(run)


def run(
    ctx: typer.Context,
    datum: Datums = None,
    file: SpecFile = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where outputs go: not there, or empty.")] = Path(
        "out"
    ),
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", help="Which one, if the file has several.")
    ] = None,
) -> int:
    """Run one datum of a pipeline here, as a job would: in its sandbox and environment, but without a commit or a server.
    Exits as the command does. (With a word after it: let a cron input tick.)"""
    if ctx.invoked_subcommand is not None:
        return 0
    if not datum or file is None:
        raise InvalidInputError(
            "which datum of which spec? write: trunkline run --datum PATH -f SPEC", kind="no_datum_given"
        )
    from trunkline.workers.local import run_datum  # noqa: PLC0415 (brings the worker along)

    result = run_datum(_planned(datum, file, out, pipeline))
    _tell(result, out)
    return result.exit_code


def _planned(datum: list[str], file: Path, out: Path, pipeline: str | None) -> LocalRun:
    from trunkline.pipelines.inputs import leaves  # noqa: PLC0415 (the models take their time)
    from trunkline.pipelines.spec import effective, limits_of, parse_spec  # noqa: PLC0415
    from trunkline.settings import load_settings  # noqa: PLC0415
    from trunkline.workers.local import LocalRun  # noqa: PLC0415

    spec = effective(parse_spec(_document(file, pipeline), DEFAULT_PROJECT))
    transform = spec["transform"]
    settings = load_settings()
    code = file.parent / transform["code"] if transform.get("code") else None
    if code is not None and not code.is_dir():
        raise InvalidInputError(
            f"transform.code {transform['code']!r}: there is no folder {code}", kind="no_code"
        )
    known = leaves(spec["input"]) if spec.get("input") else []
    files, env = _files(datum, known, spec.get("input") or {})
    environment = settings.environment_for(
        transform["image"], requirements=bool(transform.get("requirements"))
    )
    return LocalRun(
        spec=spec, environment=environment.model_dump(), limits=limits_of(spec), files=files, code=code, out=out,
        home=settings.home, sandbox=settings.sandbox, on_line=_print, datum_env=env,
    )  # fmt: skip


def _document(file: Path, pipeline: str | None) -> dict[str, Any]:
    from trunkline.sdk.specs import read_specs  # noqa: PLC0415 (yaml takes its time)

    specs = read_specs(file)
    if pipeline is None and len(specs) == 1:
        return specs[0]
    names = [str((spec.get("pipeline") or {}).get("name")) for spec in specs]
    if pipeline is None:
        raise InvalidInputError(
            f"{file} has several pipelines: choose one with --pipeline: {', '.join(names)}",
            kind="several_pipelines",
        )
    for name, spec in zip(names, specs, strict=True):
        if name == pipeline:
            return spec
    raise InvalidInputError(
        f"{file} has no pipeline {pipeline}; it has {', '.join(names)}", kind="no_pipeline"
    )


def _files(
    given: list[str], known: list[Leaf], spec_input: Mapping[str, Any]
) -> tuple[list[LocalFile], dict[str, str]]:
    """What lies where below ``/pfs``, and what the datum was joined or grouped by."""
    from trunkline.pipelines.inputs import expand  # noqa: PLC0415
    from trunkline.workers.local import LocalFile  # noqa: PLC0415

    by_name = {leaf.name: leaf for leaf in known}
    files, env = [], {}
    for word in given:
        name, path = _split(word, by_name)
        leaf = by_name[name]
        if not path.exists():
            raise InvalidInputError(f"--datum {word}: there is no {path}", kind="no_path")
        where, captures = _place(path, leaf.glob)
        if captures is None:
            say(f"note: {where} does not match the glob {leaf.glob} of input {name}")
        files.append(LocalFile(input=name, path=where, source=path))
        for variable, template in (("JOIN_ON", leaf.join_on), ("GROUP_BY", leaf.group_by)):
            if template:
                env[f"PACH_DATUM_{name}_{variable}"] = expand(template, captures or ())
    seen = {one.input for one in files}
    for leaf in known:
        if leaf.kind == "cron" and leaf.name not in seen:
            tick = datetime.now(UTC).strftime("/%Y-%m-%dT%H:%M:%SZ")
            files.append(LocalFile(input=leaf.name, path=tick, source=None))
            seen.add(leaf.name)
    missing = [leaf.name for leaf in known if leaf.name not in seen and not leaf.outer_join]
    if missing and (not seen or not _has_union(spec_input)):
        raise InvalidInputError(
            f"input {missing[0]} has no file: add --datum {missing[0]}=PATH", kind="missing_input"
        )
    return files, env


def _split(word: str, by_name: Mapping[str, Leaf]) -> tuple[str, Path]:
    name, found, path = word.partition("=")
    if found and name in by_name:
        return name, Path(path)
    if len(by_name) == 1:
        return next(iter(by_name)), Path(word)
    if not by_name:
        raise InvalidInputError("the pipeline has no input: it makes no datums", kind="unknown_input")
    raise InvalidInputError(
        f"--datum {word}: write NAME=PATH, where NAME is one of {', '.join(by_name)}", kind="unknown_input"
    )


def _place(path: Path, glob: str) -> tuple[str, tuple[str, ...] | None]:
    """Where a file is in its input: as much of the end of its path as the glob asks for. None: the glob would not find it."""
    matcher = Glob(glob if glob.startswith("/") else f"/{glob}")
    end = "/" if path.is_dir() else ""
    if end and matcher.match("/") is not None:
        return "/", matcher.match("/")
    parts = path.resolve().parts[1:]
    for count in range(1, len(parts) + 1):
        inside = "/" + "/".join(parts[-count:])
        captures = matcher.match(inside)
        if captures is not None:
            return inside + end, captures
    return f"/{parts[-1] if parts else ''}{end}", None


def _has_union(node: Mapping[str, Any]) -> bool:
    return any(
        kind == "union" or any(_has_union(one) for one in value)
        for kind, value in node.items()
        if isinstance(value, list)
    )


def _print(text: str, stream: str) -> None:
    if stream == "stdout":
        show(text)
    else:
        say(text)


def _tell(result: LocalResult, out: Path) -> None:
    if not result.reason:
        say(f"{counted(result.file_count, 'file')} in {out}")
    elif result.is_recovered:
        say(
            f"recovered: {result.reason}; err_cmd succeeded, so a job would go on without this datum's output"
        )
    else:
        say(f"failed: {result.reason}")
