"""The clients that commands use, for the server that the environment or the data directory names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.sdk.transfer import Transfers

if TYPE_CHECKING:
    from trunkline.sdk.client import Client


def client() -> Client:
    """The whole client."""
    from trunkline.sdk.client import Client  # noqa: PLC0415 (brings all wire models along: a third of a second)

    return Client()


def transfers() -> Transfers:
    """As much of it as moves files; there at once."""
    return Transfers()
