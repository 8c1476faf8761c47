"""The client that commands use."""

from __future__ import annotations

from trunkline.sdk.client import Client


def client() -> Client:
    """For the server that the environment or the data directory names."""
    return Client()
