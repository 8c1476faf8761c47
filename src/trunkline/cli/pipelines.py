"""What is done with pipelines: create, update, edit, rerun, run cron, restart datum, draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from trunkline.cli.client import client, exactly, in_time
from trunkline.cli.editor import in_editor
from trunkline.cli.grammar import JobName, Output, Project, command, new_verb
from trunkline.cli.output import counted, done, say, show, structured, table
from trunkline.errors import InvalidInputError, TrunklineError
from trunkline.sdk.specs import parse_specs, read_specs
from trunkline.wire.pipelines import Pipeline, PipelinePreview

SpecFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Pipeline spec: JSON or YAML, one or many; - is stdin.")
]
JsonnetFile = Annotated[Path | None, typer.Option("--jsonnet", help="The same, as a Jsonnet file.")]
Args = Annotated[list[str] | None, typer.Option("--arg", help="KEY=VALUE for a Jsonnet file; repeatable.")]
Reprocess = Annotated[bool, typer.Option("--reprocess", help="Process all data again.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what it would do, and do nothing: the spec, the datums, what is to do.")
]  # fmt: skip
LISTED_DATUMS_MAX = 10_000


def register(app: typer.Typer) -> None:
    edit = new_verb(app, "edit", "Change a pipeline in your editor.")
    command(edit, "pipeline", "trunkline edit pipeline edges")(edit_pipeline)
    rerun = new_verb(app, "rerun", "Have a pipeline do again what it has not done.")
    command(rerun, "pipeline", "trunkline rerun pipeline edges")(rerun_pipeline)
    restart = new_verb(app, "restart", "Have datums of a running job done again.")
    command(restart, "datum", "trunkline restart datum edges@1035715e796f45caae7a1d3ffd1f93ca /liberty.png")(
        restart_datum
    )
    run = new_verb(app, "run", "Let a cron input of a pipeline tick now.")
    command(run, "cron", "trunkline run cron report")(run_cron)
    draw = new_verb(app, "draw", "Draw pipelines with what they read.")
    command(draw, "pipeline", "trunkline draw pipeline")(draw_pipelines)


def create_pipeline(
    file: SpecFile = None,
    jsonnet: JsonnetFile = None,
    arg: Args = None,
    update: Annotated[bool, typer.Option("--update", help="Make a new version of an existing one.")] = False,
    reprocess: Reprocess = False,
    dry_run: DryRun = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Create pipelines from a spec file: all that it holds, or none; they may read what others of them make. The folder that
    transform.code names is uploaded with it."""
    path, specs = _specs(file, jsonnet, arg)
    api, folder = client(), path.parent
    if dry_run or any(spec.get("dry_run") or spec.get("dryRun") for spec in specs):
        previews = api.preview_pipelines(
            specs, folder=folder, update=update, reprocess=reprocess, project=project
        )
        _show_previews(previews, output)
        return
    made = api.create_pipelines(specs, folder=folder, update=update, reprocess=reprocess, project=project)
    if output is not None:
        structured(made if len(made) > 1 else made[0], output)
        return
    for one in made:
        _say_made(one)


def update_pipeline(
    file: SpecFile = None,
    jsonnet: JsonnetFile = None,
    arg: Args = None,
    reprocess: Reprocess = False,
    dry_run: DryRun = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Make new versions of pipelines from a spec file; one that does not exist is created, as by pachctl."""
    create_pipeline(file, jsonnet, arg, True, reprocess, dry_run, project, output)


def _specs(
    file: Path | None, jsonnet: Path | None, arg: list[str] | None
) -> tuple[Path, list[dict[str, Any]]]:
    if (file is None) == (jsonnet is None):
        raise InvalidInputError("name one spec file: -f FILE, or --jsonnet FILE", kind="no_file")
    args = {}
    for one in arg or []:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise InvalidInputError(f"--arg {one!r}: write KEY=VALUE", kind="bad_arg")
        args[key] = value
    if file is not None:
        return file, read_specs(file, args)
    assert jsonnet is not None, "one of them is there"
    return jsonnet, read_specs(jsonnet, args, is_jsonnet=True)


def _say_made(pipeline: Pipeline) -> None:
    what = "created" if pipeline.version == 1 else f"updated to version {pipeline.version}"
    say(in_time(f"pipeline {pipeline.project}/{pipeline.name} {what}"))
    for note in pipeline.notes:
        say(f"note: {note}")


# --- previews -----------------------------------------------------------------------------------------------------


def _show_previews(previews: list[PipelinePreview], output: Any) -> None:
    if output is not None:
        structured(previews if len(previews) > 1 else previews[0], output)
        return
    for preview in previews:
        _show_preview(preview)


def _show_preview(preview: PipelinePreview) -> None:
    pipeline, work = preview.pipeline, preview.work
    show(yaml.safe_dump(pipeline.spec, sort_keys=False, allow_unicode=True).rstrip())
    what = "would be created" if preview.is_new else f"would be updated to version {pipeline.version}"
    changes = f" ({', '.join(preview.changes)})" if preview.changes else ""
    say(f"pipeline {pipeline.project}/{pipeline.name} {what}{changes}")
    for note in pipeline.notes:
        say(f"note: {note}")
    kinds = ", ".join(f"{number} {kind}" for kind, number in work.kinds.items())
    say(
        f"{counted(work.total, 'datum')}: {work.to_do} to do{f' ({kinds})' if kinds else ''}, "
        f"{work.unchanged} unchanged, {work.cached} computed before, {work.removed} removed"
    )
    if work.samples:
        show("")
        table(
            ("DATUM", "FILES", "WHY"),
            [(str(one["id"])[:12], ", ".join(one["files"]), why_text(one["why"])) for one in work.samples],
        )
        more = work.to_do - len(work.samples)
        if more > 0:
            say(f"and {more} more")


def why_text(why: dict[str, Any]) -> str:
    """Why a datum is done, in a few words."""
    kind = str(why.get("kind", ""))
    what = why.get("files") or why.get("code") or ([f"was {why['was']}"] if why.get("was") else [])
    return f"{kind}: {', '.join(map(str, what))}" if what else kind


def datums_of_spec(file: Path, project: str | None, output: Any) -> None:
    """The datums that the specs in a file would have."""
    api = client()
    previews = api.preview_pipelines(file, update=True, datums=LISTED_DATUMS_MAX, project=project)
    found = [datum for preview in previews for datum in preview.datums]
    if output is not None:
        structured(found, output)
    else:
        table(("ID", "FILES"), [(one.id, ", ".join(one.files)) for one in found])


# --- editing ------------------------------------------------------------------------------------------------------


def edit_pipeline(
    name: str, reprocess: Reprocess = False, project: Project = None, output: Output = None
) -> None:
    """Change a pipeline's spec in $EDITOR; what is wrong with it is shown there until it is right, or left as it is."""
    api = client()
    found = api.inspect_pipeline(name, project=project)
    text = yaml.safe_dump(found.spec, sort_keys=False, allow_unicode=True)
    error: TrunklineError | None = None
    while True:
        said = f"# {error}\n" if error is not None else ""
        edited = in_editor(said + text).removeprefix(said)
        if edited == text:
            if error is not None:
                raise error
            say(f"pipeline {found.project}/{found.name} is as it was")
            return
        text = edited
        try:
            [spec] = parse_specs(text, "the spec") or [{}]
            _same_pipeline(spec, found)
            made = api.create_pipeline(
                spec, update=True, reprocess=reprocess, keep_code=True, project=found.project
            )
        except (TrunklineError, ValueError) as problem:
            error = problem if isinstance(problem, TrunklineError) else _not_one()
            continue
        if output is not None:
            structured(made, output)
        else:
            _say_made(made)
        return


def _not_one() -> InvalidInputError:
    return InvalidInputError("edit one spec at a time", kind="bad_spec")


def _same_pipeline(spec: dict[str, Any], found: Pipeline) -> None:
    named = spec.get("pipeline")
    name = named.get("name") if isinstance(named, dict) else None
    if name != found.name:
        raise InvalidInputError(
            f"the name of a pipeline cannot be edited: it is {found.name!r}", kind="bad_spec"
        )


# --- doing again --------------------------------------------------------------------------------------------------


def rerun_pipeline(
    name: str, reprocess: Reprocess = False, project: Project = None, output: Output = None
) -> None:
    """A new job for what the inputs hold now: it does what failed or was set aside, and keeps what succeeded."""
    job = client().rerun_pipeline(name, reprocess=reprocess, project=project)
    done(job, output, f"job {job.project}/{job.pipeline}@{job.id} {job.status}")


def restart_datum(
    job: JobName,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH]...", help="Those that see all of them.")] = None,
    datum: Annotated[str, typer.Option("--datum", help="The beginning of a datum's ID.")] = "",
    project: Project = None,
) -> None:  # fmt: skip
    """Have datums of a running job done again from their beginning."""
    api = client()
    job = exactly(api, job, project)
    found = api.restart_datums(job, paths or [], datum=datum, project=project)
    say(f"{counted(len(found), 'datum')} of job {job} restarted")


def run_cron(
    pipeline: str,
    cron: Annotated[str | None, typer.Option("--input", help="Only this cron input.")] = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """Let the cron inputs of a pipeline tick now, beside their schedule."""
    made = client().run_cron(pipeline, cron=cron, project=project)
    if output is not None:
        structured(made, output)
        return
    for commit in made:
        say(f"commit {commit.project}/{commit.repo}@{commit.id} {commit.description}")


# --- drawing ------------------------------------------------------------------------------------------------------


def draw_pipelines(
    name: Annotated[str | None, typer.Argument(metavar="[PIPELINE]", help="Only what leads from it on.")] = None,
    project: Project = None,
) -> None:  # fmt: skip
    """Draw what follows from each repo, as a tree; a pipeline of several inputs stands below each of them."""
    found = client().list_pipelines(project)
    below: dict[str, list[str]] = {}
    for pipeline in found:
        for repo in dict.fromkeys(_repos_of(pipeline.spec.get("input") or {})):
            below.setdefault(repo, []).append(f"{pipeline.project}/{pipeline.name}")
    outputs = {f"{pipeline.project}/{pipeline.name}" for pipeline in found}
    if name is not None:
        tops = [f"{one.project}/{one.name}" for one in found if one.name == name]
    else:
        tops = [repo for repo in below if repo not in outputs]
        tops += [one for one in outputs if not any(one in inner for inner in below.values())]  # spouts
    for top in sorted(tops):
        show(top)
        _draw(top, below, "")


def _draw(at: str, below: dict[str, list[str]], indent: str) -> None:
    inner = sorted(below.get(at, ()))
    for number, one in enumerate(inner):
        is_last = number == len(inner) - 1
        show(f"{indent}{'└─' if is_last else '├─'} {one}")
        _draw(one, below, indent + ("   " if is_last else "│  "))


def _repos_of(node: Any) -> list[str]:
    if isinstance(node, list):
        return [repo for one in node for repo in _repos_of(one)]
    own = [f"{leaf['project']}/{leaf['repo']}" for kind in ("pfs", "cron") if (leaf := node.get(kind))]
    return own + [
        repo for kind in ("cross", "union", "join", "group") for repo in _repos_of(node.get(kind) or [])
    ]
