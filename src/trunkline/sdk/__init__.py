"""The Python client of the HTTP API: ``Client``, which returns the models of ``wire``."""

from trunkline.sdk.client import Client

__all__ = ["Client"]
