"""The one call of the datum worker: from what the server says of an environment to one that is ready."""

from __future__ import annotations

from trunkline.errors import InvalidInputError
from trunkline.workers.environments.base import Driver, Prepared, Wanted
from trunkline.workers.environments.container import ContainerDriver
from trunkline.workers.environments.process import ProcessDriver

FAILURES_KEPT_MAX = 64


class Environments:
    """The environments of one worker. What failed for a job is not tried again for that job."""

    def __init__(self) -> None:
        self._drivers: dict[str, Driver] = {}
        self._failed: dict[tuple[str, str], InvalidInputError] = {}

    def prepare(self, wanted: Wanted) -> Prepared:
        """Make the environment of a datum ready; quick after the first time.

        :raises InvalidInputError: ``bad_requirements`` or ``no_image``, with the tool's last words.
        """
        kind = "container" if wanted.payload["environment"].get("container") else "process"
        if kind not in self._drivers:
            self._drivers[kind] = ContainerDriver() if kind == "container" else ProcessDriver()
        job = wanted.payload["job"]
        of = (f"{job['project']}/{job['pipeline']}@{job['id']}", repr(wanted.payload["environment"]))
        if of in self._failed:
            raise self._failed[of]
        try:
            return self._drivers[kind].prepare(wanted)
        except InvalidInputError as error:
            while len(self._failed) >= FAILURES_KEPT_MAX:
                del self._failed[next(iter(self._failed))]
            self._failed[of] = error
            raise

    def close(self) -> None:
        """Let go of all that is held."""
        for driver in self._drivers.values():
            driver.close()
        self._drivers.clear()
