"""The server itself, and everything of one ID."""

from __future__ import annotations

from pydantic import Field

from trunkline.wire.base import Wire
from trunkline.wire.commits import Commit
from trunkline.wire.experiments import Experiment
from trunkline.wire.inferenceservices import Revision
from trunkline.wire.jobs import Cost, Job
from trunkline.wire.models import ModelVersion


class Process(Wire):
    """A child of the control server."""

    id: str
    kind: str
    subject: str
    pid: int | None


class Status(Wire):
    version: str
    home: str
    pid: int
    url: str
    gateway_url: str
    doors: dict[str, str] = Field(default_factory=dict)
    """Where the open doors are, by name."""
    started_at: float
    database: str = ""
    """Where it is, without a password; as ``objects``, empty from an older server."""
    objects: str = ""
    processes: list[Process]


class S3Credentials(Wire):
    """What S3 clients need: the key pair that stands for the caller's token, and where to go."""

    access_key_id: str
    secret_access_key: str
    endpoint_url: str


class ConsoleLink(Wire):
    """A link that opens the console once, within ten minutes."""

    url: str


class Everything(Wire):
    """All that bears one ID."""

    id: str
    commits: list[Commit]
    jobs: list[Job]
    cost: Cost | None = None
    """What the jobs took together; None: there are none."""
    experiments: list[Experiment]
    versions: list[ModelVersion]
    revisions: list[Revision]
