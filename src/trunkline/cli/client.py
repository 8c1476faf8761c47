"""The clients that commands use, for the server that the environment or the data directory names; they gather where 'start
transaction' said so."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
