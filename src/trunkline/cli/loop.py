"""``train`` and ``deploy``: the two steps that a pipeline's user code calls to close the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.grammar import command
from trunkline.cli.output import show
from trunkline.sdk.client import Client
from trunkline.sdk.deploy import DeployOptions
from trunkline.sdk.deploy import deploy as deploy_step
from trunkline.sdk.job import OUTAGE_SECONDS, current_job
from trunkline.sdk.train import train as train_step


def register(app: typer.Typer) -> None:
    command(app, "train", "trunkline train --config const.yaml --repo digits --model digits")(train)
    command(
        app,
        "deploy",
        "trunkline deploy --deployment-name digits-deploy --namespace models --load model:load --handler handler.py",
    )(deploy)


def train(
    config: Annotated[Path, typer.Option("--config", help="The experiment's YAML file.")],
    repo: Annotated[str, typer.Option("--repo", help="The pipeline's input repo: what to train on.")],
    model: Annotated[str, typer.Option("--model", help="The model to register the best checkpoint for.")],
    code: Annotated[Path, typer.Option("--code", help="The folder with the training code.")] = Path(),
) -> None:
    """In a pipeline: train on the job's commit, register the best checkpoint, write it to /pfs/out."""
    job = current_job()
    client = Client(retry_seconds=OUTAGE_SECONDS)
    train_step(client, job, config=config, code=code, repo=repo, model=model, talk=show)


def deploy(
    deployment_name: Annotated[str, typer.Option("--deployment-name", help="The inference service's name.")],
    load: Annotated[str, typer.Option("--load", help="MODULE:FUNCTION that loads a checkpoint folder.")],
    handler: Annotated[Path, typer.Option("--handler", help="The file that answers requests.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    example: Annotated[
        str | None,
        typer.Option("--example", help="MODULE:FUNCTION that makes an input: trace, do not script."),
    ] = None,
    extra_file: Annotated[
        list[Path] | None, typer.Option("--extra-file", help="More files for the archive; repeatable.")
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="How many processes answer.")] = 1,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until it must be Ready.")] = 300.0,
) -> None:
    """In a pipeline: pack the model in /pfs, put it into the model store, roll the service over to it."""
    options = DeployOptions(
        name=deployment_name, namespace=namespace, load=load, example=example, handler=handler,
        extra_files=tuple(extra_file or ()), replicas=replicas, timeout_seconds=timeout,
    )  # fmt: skip
    deploy_step(Client(retry_seconds=OUTAGE_SECONDS), current_job(), options, talk=show)
