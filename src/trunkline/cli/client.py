"""The client that commands use."""

from __future__ import annotations

from trunkline.sdk import config
from trunkline.sdk.client import Client


def client() -> Client:
    """For the server that the environment or the data directory names; gathers where 'start transaction' said so."""
    made = Client()
    made.transaction = config.active_transaction()
    return made
