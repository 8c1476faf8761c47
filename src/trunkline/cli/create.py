"""``create`` and ``update``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.client import client, in_time
from trunkline.cli.grammar import Output, Project, command, new_verb
from trunkline.cli.output import done, say, show
from trunkline.cli.pipelines import create_pipeline, update_pipeline
from trunkline.errors import InvalidInputError, NotFoundError

Description = Annotated[str, typer.Option("--description", "-d", help="What it is for.")]


def register(app: typer.Typer) -> None:
    create = new_verb(
        app, "create", "Create a namespace, project, repo, branch, pipeline, experiment, model …"
    )
    command(create, "namespace", "trunkline create namespace models")(create_namespace)
    command(create, "project", "trunkline create project vision")(create_project)
    command(create, "repo", "trunkline create repo dogs-and-cats")(create_repo)
    command(create, "branch", "trunkline create branch images@staging --head master")(create_branch)
    command(create, "pipeline", "trunkline create pipeline -f training-pipeline.json")(create_pipeline)
    command(create, "experiment", "trunkline create experiment const.yaml experiment/")(create_experiment)
    command(create, "model", "trunkline create model digits")(create_model)
    command(create, "secret", "trunkline create secret -f pipeline-secret.yaml")(create_secret)
    update = new_verb(app, "update", "Change a pipeline or a repo's description.")
    command(update, "pipeline", "trunkline update pipeline -f training-pipeline.json")(update_pipeline)
    command(update, "repo", "trunkline update repo images --description 'scans'")(update_repo)


def create_namespace(name: str, output: Output = None) -> None:
    """Create a namespace for secrets and inference services."""
    done(client().create_namespace(name), output, f"namespace {name} created")


def create_project(name: str, description: Description = "", output: Output = None) -> None:
    """Create a project for repos and pipelines."""
    done(client().create_project(name, description), output, f"project {name} created")


def create_repo(
    name: str, description: Description = "", project: Project = None, output: Output = None
) -> None:
    """Create a repo for data."""
    made = client().create_repo(name, description, project=project)
    done(made, output, in_time(f"repo {made.project}/{name} created"))


def update_repo(
    name: str, description: Description = "", project: Project = None, output: Output = None
) -> None:
    """Change a repo's description."""
    made = client().create_repo(name, description, project=project, update=True)
    done(made, output, in_time(f"repo {made.project}/{name} updated"))


def create_branch(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH")],
    head: Annotated[
        str | None, typer.Option("--head", help="Where it begins: a branch, tag or commit's ID; with ^2 two commits before.")
    ] = None,
    provenance: Annotated[
        list[str] | None,
        typer.Option("--provenance", "-p", help="A branch REPO@BRANCH that it follows; repeatable."),
    ] = None,
    no_provenance: Annotated[bool, typer.Option("--no-provenance", help="It follows nothing any more.")] = False,
    trigger: Annotated[
        str | None, typer.Option("--trigger", "-t", help="Move it by itself to the head of this branch.")
    ] = None,
    trigger_size: Annotated[str | None, typer.Option(help="… when that has grown by so much, as 100MB.")] = None,
    trigger_commits: Annotated[int | None, typer.Option(help="… when that has so many new commits.")] = None,
    trigger_rate_limit: Annotated[
        str | None, typer.Option(help="… at most so often: '@every 1h', '@daily' or five cron fields.")
    ] = None,
    trigger_cron: Annotated[str | None, typer.Option(help="… at these times, as '0 * * * *'.")] = None,
    trigger_all: Annotated[
        bool, typer.Option("--trigger-all", help="… when all that is asked for is so, not just one of it.")
    ] = False,
    no_trigger: Annotated[bool, typer.Option("--no-trigger", help="It does not move by itself any more.")] = False,
    project: Project = None,
    output: Output = None,
) -> None:  # fmt: skip
    """Create a branch, or change one: move it, let it follow branches of other repos, or give it a trigger."""
    conditions = {
        "size": trigger_size, "commits": trigger_commits, "rate_limit": trigger_rate_limit, "cron": trigger_cron,
    }  # fmt: skip
    if trigger is None and (trigger_all or any(one is not None for one in conditions.values())):
        raise InvalidInputError(
            "which branch is to be watched? add --trigger BRANCH", kind="no_trigger_branch"
        )
    api = client()
    # What a transaction makes cannot be seen before it is finished.
    is_new = (
        trigger and not api.transaction and not _is_there(f"{address.partition('@')[0]}@{trigger}", project)
    )
    made = api.create_branch(
        address, head=head, provenance=[] if no_provenance else provenance or None, drop_trigger=no_trigger,
        trigger=None if trigger is None else {"branch": trigger, "all": trigger_all, **conditions}, project=project,
    )  # fmt: skip
    where = "is without commits" if made.head is None else f"is at {made.head}"
    done(made, output, in_time(f"branch {made.project}/{made.repo}@{made.name} {where}"))
    if is_new:  # a name that was typed wrongly would be watched forever
        say(f"there was no branch {made.project}/{made.repo}@{trigger}: it is made, too")


def _is_there(branch: str, project: str | None) -> bool:
    try:
        client().inspect_branch(branch, project=project)
    except NotFoundError as error:
        return error.kind != "no_branch"
    return True


def create_experiment(
    config: Annotated[Path, typer.Argument(help="Determined's experiment configuration (YAML).")],
    code: Annotated[Path | None, typer.Argument(help="The folder with its code.")] = None,
    label: Annotated[str, typer.Option("--label", help="A word to find it by.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print its log until it ends.")] = False,
    output: Output = None,
) -> None:
    """Start an experiment."""
    from trunkline.cli.logs import experiment_log  # noqa: PLC0415 (only with --follow)

    try:
        text = config.read_text()
    except OSError as error:
        raise InvalidInputError(f"cannot read {config}: {error.strerror}", kind="bad_file") from error
    api = client()
    made = api.create_experiment(text, code, label=label)
    done(made, output, f"experiment {made.id} created")
    if output is None:
        show(str(made.id))
    if follow:
        experiment_log(api, made.id, follow=True)


def create_model(name: str, description: Description = "", output: Output = None) -> None:
    """Create a model in the registry."""
    done(client().create_model(name, description), output, f"model {name} created")


def create_secret(
    file: Annotated[
        str, typer.Option("--file", "-f", help="Secret in Kubernetes' YAML or JSON; - is stdin.")
    ],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="The namespace.")] = None,
    output: Output = None,
) -> None:
    """Store a secret; the same as 'apply' of its file."""
    from trunkline.cli.apply import apply  # noqa: PLC0415 (registered in its own right, too)

    apply(file, namespace, output)
