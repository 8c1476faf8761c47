"""``delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.client import client, exactly, in_time
from trunkline.cli.grammar import Force, JobName, Namespace, Output, Project, command, new_verb
from trunkline.cli.output import done, say
from trunkline.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    verb = new_verb(app, "delete", "Delete projects, repos, branches, files, pipelines, services …")
    command(verb, "project", "trunkline delete project vision")(delete_project)
    command(verb, "repo", "trunkline delete repo images")(delete_repo)
    command(verb, "branch", "trunkline delete branch images@staging")(delete_branch)
    command(verb, "file", "trunkline delete file images@master:/cats/1.png")(delete_file)
    command(verb, "pipeline", "trunkline delete pipeline edges")(delete_pipeline)
    command(verb, "job", "trunkline delete job edges@1035715e796f45caae7a1d3ffd1f93ca")(delete_job)
    command(verb, "namespace", "trunkline delete namespace models")(delete_namespace)
    command(verb, "secret", "trunkline delete secret pipeline-secret")(delete_secret)
    command(verb, "inferenceservice", "trunkline delete isvc sklearn-iris -n models")(delete_service)


def delete_project(name: str, force: Force = False) -> None:
    """Delete a project."""
    client().delete_project(name, force=force)
    say(f"project {name} deleted")


def delete_repo(name: str, force: Force = False, project: Project = None) -> None:
    """Delete a repo with all its commits."""
    client().delete_repo(name, force=force, project=project)
    say(in_time(f"repo {name} deleted"))


def delete_branch(
    address: Annotated[str, typer.Argument(metavar="REPO@BRANCH")],
    force: Force = False,
    project: Project = None,
) -> None:
    """Delete a branch; its commits stay."""
    client().delete_branch(address, force=force, project=project)
    say(in_time(f"branch {address} deleted"))


def delete_file(
    addresses: Annotated[list[str], typer.Argument(metavar="REPO@BRANCH:PATH...")],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Directories, too, with all that is below them.")
    ] = False,
    glob: Annotated[bool, typer.Option("--glob", "-g", help="The paths are globs.")] = False,
    project: Project = None,
    output: Output = None,
) -> None:
    """Delete files, or with -r directories, as one commit; all of the same branch."""
    wheres = {address.partition(":")[0] for address in addresses}
    paths = [address.partition(":")[2] for address in addresses]
    if len(wheres) > 1:
        raise InvalidInputError(
            "one commit is of one branch: delete the files of each by itself", kind="two_branches"
        )
    if not all(paths):
        raise InvalidInputError("a path is missing: write REPO@BRANCH:/PATH", kind="no_path")
    commit = client().delete_files(wheres.pop(), paths, recursive=recursive, glob=glob, project=project)
    done(commit, output, f"commit {commit.project}/{commit.repo}@{commit.id} {commit.status}")


def delete_pipeline(
    name: str,
    force: Force = False,
    keep_repo: Annotated[bool, typer.Option("--keep-repo", help="Keep what it has made.")] = False,
    project: Project = None,
) -> None:
    """Delete a pipeline with its jobs and its output."""
    client().delete_pipeline(name, force=force, keep_repo=keep_repo, project=project)
    say(f"pipeline {name} deleted")


def delete_job(job: JobName, project: Project = None) -> None:
    """Forget a job with its datums and its log; one that runs is ended first. Its output commit stays."""
    api = client()
    job = exactly(api, job, project)
    api.delete_job(job, project=project)
    say(f"job {job} deleted")


def delete_namespace(name: str) -> None:
    """Delete an empty namespace."""
    client().delete_namespace(name)
    say(f"namespace {name} deleted")


def delete_secret(name: str, namespace: Namespace = "default") -> None:
    """Delete a secret."""
    client().delete_secret(name, namespace=namespace)
    say(f"secret {name} deleted")


def delete_service(name: str, namespace: Namespace = "default") -> None:
    """Take an inference service down."""
    client().delete_inference_service(name, namespace=namespace)
    say(f"inferenceservice {name} deleted")
