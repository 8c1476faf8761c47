"""What user code can know of the job it runs in, read from the environment that the worker gives it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trunkline.errors import InvalidInputError, StateError

OUTAGE_SECONDS = 600
"""How long code in a job waits for a control server that went away, before it gives up."""


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """One datum of one job."""

    project: str
    pipeline: str
    job_id: str
    pfs: Path
    """``/pfs``, or the folder that stands for it on a machine without mount namespaces."""

    @property
    def out(self) -> Path:
        """What is written here becomes the output commit."""
        return self.pfs / "out"

    @property
    def address(self) -> str:
        return f"{self.project}/{self.pipeline}@{self.job_id}"

    def only_input(self) -> Path:
        """The folder of the pipeline's single input.

        :raises InvalidInputError: if there are several: name one.
        """
        folders = sorted(path for path in self.pfs.iterdir() if path.is_dir() and path.name != "out")
        if len(folders) != 1:
            found = ", ".join(path.name for path in folders) or "none"
            raise InvalidInputError(
                f"expected one input folder below {self.pfs}, found: {found}", kind="ambiguous_input"
            )
        return folders[0]


def current_job() -> JobContext:
    """The job that this process runs in.

    :raises StateError: ``not_in_a_job``.
    """
    try:
        return JobContext(
            project=os.environ["TRUNKLINE_PROJECT"],
            pipeline=os.environ["PPS_PIPELINE_NAME"],
            job_id=os.environ["TRUNKLINE_JOB_ID"],
            pfs=Path(os.environ.get("PFS_ROOT") or "/pfs"),
        )
    except KeyError as error:
        raise StateError(
            "this command runs inside a pipeline's job: put it into the spec's transform", kind="not_in_a_job"
        ) from error
