"""Why a job did what it did."""

from __future__ import annotations

from trunkline.wire.base import Wire
from trunkline.wire.jobs import Job


class WhyDatum(Wire):
    id: str
    paths: tuple[str, ...]
    """What it is made of: ``repo:path``."""
    status: str
    kind: str
    """new, changed, code, forced, again, cached or removed."""
    files: tuple[str, ...] = ()
    """The inputs that changed."""
    code: tuple[str, ...] = ()
    """What of the code changed."""
    from_job: str | None = None
    """The job whose result was taken, or which left the datum undone."""
    was: str = ""
    attempts: int = 0
    text: str
    """All of that in words."""


class WhyJob(Wire):
    job: Job
    base: str | None
    """The job that it builds on."""
    kinds: dict[str, int]
    """How many datums of each kind; ``unchanged`` ones among them."""
    retried: int
    datums: tuple[WhyDatum, ...]
    """Those that are not unchanged."""
    next: str | None = None
    """The cursor of what follows; None at the end."""
