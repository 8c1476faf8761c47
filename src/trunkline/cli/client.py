"""The clients that commands use, for the server that the environment or the data directory names; they gather where 'start
transaction' said so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.core.ids import is_commit_id
from trunkline.sdk import config
from trunkline.sdk.transfer import Transfers

if TYPE_CHECKING:
    from trunkline.sdk.client import Client


def client() -> Client:
    """The whole client."""
    from trunkline.sdk.client import Client  # noqa: PLC0415 (brings all wire models along: a third of a second)

    made = Client()
    made.transaction = config.active_transaction()
    return made


def transfers() -> Transfers:
    """As much of it as moves files; there at once."""
    made = Transfers()
    made.transaction = config.active_transaction()
    return made


def in_time(text: str) -> str:
    """What a command that transactions gather has done, or will have done."""
    transaction = config.active_transaction()
    return text if transaction is None else f"{text}, once transaction {transaction} is finished"


def exactly(api: Client, job: str, project: str | None) -> str:
    """A job by its ID, where a branch stands for it: that may have moved on by the next request."""
    if is_commit_id(job.partition("@")[2]):
        return job
    found = api.inspect_job(job, project=project)
    return f"{found.project}/{found.pipeline}@{found.id}"
