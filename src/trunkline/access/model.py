"""The nouns of access."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    ADMIN = "admin"
    """Everything: the person who owns the data directory."""
    WORKER = "worker"
    """The lease loop of a worker process."""
    JOB = "job"
    """User code inside a datum: reads data, trains and deploys; no pipelines, no secrets, no tokens."""
    CONSOLE = "console"
    """A browser with the console's cookie: reads pages."""
    LINK = "link"
    """A one-time link, good for nothing but being exchanged for a console token."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whom a token stands for."""

    scope: Scope
    subject: str
    """What it was given to, e.g. ``job:default/digits-model@<ID>``."""
