"""``start``, ``finish``, ``stop``, ``pause``, ``activate``, ``cancel``, ``kill`` and ``wait``."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.client import client, exactly, in_time
from trunkline.cli.grammar import JobName, Namespace, Output, Project, command, new_verb
from trunkline.cli.output import done, say, show, structured
from trunkline.core.ids import is_commit_id
from trunkline.errors import StateError

CommitArgument = Annotated[str, typer.Argument(metavar="REPO@BRANCH")]
Message = Annotated[str, typer.Option("--message", "-m", help="What it is about.")]


def register(app: typer.Typer) -> None:
    start = new_verb(app, "start", "Start a commit or a stopped pipeline.")
    command(start, "commit", "trunkline start commit images@master -m 'second batch'")(start_commit)
    command(start, "pipeline", "trunkline start pipeline edges")(start_pipeline)
    finish = new_verb(app, "finish", "Finish an open commit.")
    command(finish, "commit", "trunkline finish commit images@master")(finish_commit)
    stop = new_verb(app, "stop", "Stop a pipeline or a job.")
    command(stop, "pipeline", "trunkline stop pipeline edges")(stop_pipeline)
    command(stop, "job", "trunkline stop job edges@1035715e796f45caae7a1d3ffd1f93ca")(stop_job)
    pause = new_verb(app, "pause", "Let an experiment save a checkpoint and stop, to go on later.")
    command(pause, "experiment", "trunkline pause experiment 1")(pause_experiment)
    activate = new_verb(app, "activate", "Let a paused experiment go on.")
    command(activate, "experiment", "trunkline activate experiment 1")(activate_experiment)
    cancel = new_verb(app, "cancel", "Let an experiment save a checkpoint and stop for good.")
    command(cancel, "experiment", "trunkline cancel experiment 1")(cancel_experiment)
    kill = new_verb(app, "kill", "End an experiment at once.")
    command(kill, "experiment", "trunkline kill experiment 1")(kill_experiment)
    wait = new_verb(app, "wait", "Wait until something is finished, or ready.")
    command(wait, "commit", "trunkline wait commit dogs-and-cats-model@master")(wait_commit)
    command(wait, "experiment", "trunkline wait experiment 1")(wait_experiment)
    command(wait, "inferenceservice", "trunkline wait isvc dogcat-deploy -n models")(wait_service)


def start_commit(
    address: CommitArgument, message: Message = "", project: Project = None, output: Output = None
) -> None:
    """Open a commit on a branch; what is put to the branch gathers in it until it is finished."""
    made = client().start_commit(address, message, project=project)
    if output is not None:
        structured(made, output)
    else:
        show(made.id)


def finish_commit(
    address: CommitArgument,
    message: Annotated[str | None, typer.Option("--message", "-m", help="What it is about.")] = None,
    project: Project = None,
    output: Output = None,
) -> None:
    """Finish an open commit; it never changes again, and pipelines take it up."""
    made = client().finish_commit(address, message, project=project)
    done(made, output, in_time(f"commit {made.project}/{made.repo}@{made.id} {made.status}"))


def start_pipeline(name: str, project: Project = None, output: Output = None) -> None:
    """Let a stopped pipeline go on."""
    found = client().start_pipeline(name, project=project)
    done(found, output, f"pipeline {name} {found.state}")


def stop_pipeline(name: str, project: Project = None, output: Output = None) -> None:
    """Let a pipeline begin no more jobs; one that runs goes on."""
    found = client().stop_pipeline(name, project=project)
    done(found, output, f"pipeline {name} {found.state}")


def stop_job(job: JobName, project: Project = None, output: Output = None) -> None:
    """End a job now."""
    api = client()
    job = exactly(api, job, project)
    found = api.stop_job(job, project=project)
    done(found, output, f"job {job} {found.status}")


def pause_experiment(experiment: int, output: Output = None) -> None:
    """Let trials save a checkpoint and stop, to go on after 'activate'."""
    found = client().pause_experiment(experiment)
    done(found, output, f"experiment {experiment} {found.status}")


def activate_experiment(experiment: int, output: Output = None) -> None:
    """Let a paused experiment go on from its checkpoints."""
    found = client().activate_experiment(experiment)
    done(found, output, f"experiment {experiment} {found.status}")


def cancel_experiment(experiment: int, output: Output = None) -> None:
    """Let trials save a checkpoint and stop for good."""
    found = client().cancel_experiment(experiment)
    done(found, output, f"experiment {experiment} {found.status}")


def kill_experiment(experiment: int, output: Output = None) -> None:
    """End an experiment at once; what is not saved is lost."""
    found = client().kill_experiment(experiment)
    done(found, output, f"experiment {experiment} {found.status}")


def wait_commit(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH | ID")],
    project: Project = None,
    output: Output = None,
) -> None:
    """Wait until a commit is finished; with only an ID, until all that bears it is."""
    if is_commit_id(address):
        found = client().wait_commit_set(address)
        failed = next((c for c in found.commits if c.error), None)
        if output is not None:
            structured(found, output)
    else:
        commit = client().wait_commit(address, project=project)
        failed = commit if commit.error else None
        if output is not None:
            structured(commit, output)
    if failed is not None:
        raise StateError(
            f"commit {failed.project}/{failed.repo}@{failed.id} has an error: {failed.error}", kind="failed"
        )
    if output is None:
        say(f"{address} is finished")


def wait_experiment(experiment: int, output: Output = None) -> None:
    """Wait until an experiment has ended; an error if it did not succeed."""
    found = client().wait_experiment(experiment)
    if output is not None:
        structured(found, output)
    if found.status != "succeeded":
        raise StateError(f"experiment {experiment} {found.status}: {found.reason}", kind="failed")
    if output is None:
        say(f"experiment {experiment} {found.status}")


def wait_service(
    name: str,
    namespace: Namespace = "default",
    timeout: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds.")] = 300.0,
    output: Output = None,
) -> None:
    """Wait until an inference service answers with its newest spec."""
    found = client().wait_inference_service(name, namespace=namespace, timeout_seconds=timeout)
    if output is not None:
        structured(found, output)
    else:
        say(f"inferenceservice {name} is ready at {found.url}")
