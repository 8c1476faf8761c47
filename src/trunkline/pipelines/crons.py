"""Cron inputs at work: their repos, and the one control task that makes their ticks and sleeps until the next.

A tick is an empty file named by its time, in a repo of the pipeline's own. All ticks that are due together come in one commit,
so that a server that was down for a week makes one job and not a thousand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy.engine import Connection

from trunkline.core.clock import Clock
from trunkline.core.cron import parse_schedule
from trunkline.core.ids import DEFAULT_BRANCH, TreeHash
from trunkline.errors import ConflictError, InvalidInputError, NotFoundError
from trunkline.jobs.model import CONTROL_QUEUE, Again, Done, Outcome, Task
from trunkline.jobs.queue import TaskQueue
from trunkline.pipelines import cron_store, store
from trunkline.pipelines.cron import due_ticks, next_tick, tick_name
from trunkline.pipelines.cron_store import CronRow
from trunkline.pipelines.spec import CronInput
from trunkline.storage.db.engine import Database
from trunkline.versioning.model import Change, Commit, DeletePath, PutFile, TreeInfo
from trunkline.versioning.service import VersioningService

log = logging.getLogger(__name__)

FIRE_CRONS = "fire-crons"
CRONS_PER_STEP = 50
ATTEMPTS_MAX = 100


class Crons:
    """The cron inputs of all pipelines."""

    def __init__(
        self, *, db: Database, clock: Clock, versioning: VersioningService, queue: TaskQueue
    ) -> None:
        self._db = db
        self._clock = clock
        self._versioning = versioning
        self._queue = queue

    def adopt(
        self, connection: Connection, pipeline_id: int, pipeline: str, inputs: Iterable[CronInput]
    ) -> None:
        """Make the repos of a spec's cron inputs, and begin to tick; what has not changed goes on as it was."""
        now = self._clock.now()
        known = {row.name: row for row in cron_store.of_pipeline(connection, pipeline_id)}
        for one in inputs:
            old = known.pop(one.name, None)
            spec = one.model_dump(mode="json", exclude_none=True)
            if old is None:
                description = f"Ticks of {one.name} for pipeline {one.project}/{pipeline}: {one.spec}"
                self._versioning.create_owned_repo(
                    connection, one.project, one.repo, _owner(pipeline), description
                )
            same = old is not None and all(old.spec.get(key) == spec.get(key) for key in ("spec", "start"))
            next_at = old.next_at if old is not None and same else self._first(one, now)
            cron_store.put(connection, pipeline_id, one.name, spec, next_at)
        for gone in known.values():
            cron_store.drop(connection, pipeline_id, gone.name)
        self.wake(connection)

    def _first(self, one: CronInput, now: float) -> float | None:
        start = now if one.start is None else datetime.fromisoformat(one.start).timestamp()
        return next_tick(parse_schedule(one.spec), start)

    def release(
        self, connection: Connection, pipeline_id: int, pipeline: str, *, keep: bool, force: bool
    ) -> None:
        """The pipeline goes, and the repos of its crons with it, unless its output is kept, which was made from them.

        :raises StateError: ``has_followers`` unless ``force``.
        """
        for row in cron_store.of_pipeline(connection, pipeline_id):
            if keep:
                self._versioning.release_owned_repo(connection, row.project, row.repo, _owner(pipeline))
            else:
                self._versioning.delete_owned_repo(
                    connection, row.project, row.repo, _owner(pipeline), force=force
                )

    def wake(self, connection: Connection) -> None:
        """Have the clock looked at."""
        self._queue.enqueue(connection, kind=FIRE_CRONS, key="all", queue=CONTROL_QUEUE)

    # --- ticking ---

    def step(self, _task: Task) -> Outcome:
        """Make the ticks that are due."""
        now = self._clock.now()
        with self._db.read() as connection:
            due = cron_store.due(connection, now, CRONS_PER_STEP)
        for row in due:
            assert row.next_at is not None, "it is due"
            schedule = parse_schedule(row.spec["spec"])
            ticks, following = due_ticks(schedule, row.next_at, now, row.spec.get("catch_up", "all"))
            self._tick(row, ticks, following)
        with self._db.read() as connection:
            next_at = cron_store.next_time(connection)
        return Done() if next_at is None else Again(after_seconds=max(0.0, next_at - self._clock.now()))

    def _tick(self, row: CronRow, ticks: Sequence[float], following: float | None) -> None:
        """The commit, and the time of the next one, in one transaction: no tick comes twice, none is lost."""
        for _ in range(ATTEMPTS_MAX):
            head, tree = self._with_ticks(row, ticks)
            with self._db.write() as connection:
                if self._head(row) != head:
                    continue  # somebody said `run cron` just now
                if cron_store.schedule(connection, row, following) and ticks:
                    self._commit(connection, row, tree, ticks)
                return
        raise ConflictError(f"cron input {row.project}/{row.repo}: other writers were faster", kind="busy")

    def run(self, project: str, pipeline: str, name: str | None = None) -> list[Commit]:
        """A tick of now, beside the schedule: of all cron inputs of a pipeline, or of the one named.

        :raises NotFoundError: ``no_pipeline``. :raises InvalidInputError: ``no_cron``.
        """
        with self._db.read() as connection:
            pipeline_id = store.find_pipeline_id(connection, project, pipeline)
            rows = [] if pipeline_id is None else cron_store.of_pipeline(connection, pipeline_id)
        if pipeline_id is None:
            raise NotFoundError(
                f"there is no pipeline {project}/{pipeline}: see 'trunkline list pipeline'",
                kind="no_pipeline",
            )
        chosen = [row for row in rows if name in (None, row.name)]
        if not chosen:
            has = (
                f"it has {', '.join(row.name for row in rows)}" if rows else "only a pipeline with one ticks"
            )
            raise InvalidInputError(
                f"pipeline {project}/{pipeline} has no cron input {name or ''}".rstrip() + f": {has}",
                kind="no_cron",
            )
        return [self._run(row) for row in chosen]

    def _run(self, row: CronRow) -> Commit:
        now = self._clock.now()
        for attempt in range(ATTEMPTS_MAX):
            at = round(now, 3) + attempt / 1000  # another one of the same millisecond has its name
            head, tree = self._with_ticks(row, [at])
            with self._db.write() as connection:
                if self._head(row) == head:
                    made = self._commit(connection, row, tree, [at])
                    if made is not None:
                        return made
        raise ConflictError(f"cron input {row.project}/{row.repo}: other writers were faster", kind="busy")

    def _with_ticks(self, row: CronRow, ticks: Sequence[float]) -> tuple[str | None, TreeInfo]:
        head = self._head(row)
        names = [tick_name(at) for at in (ticks[-1:] if row.spec.get("overwrite") else ticks)]
        changes: list[Change] = [PutFile(path=name, parts=[]) for name in names]
        if row.spec.get("overwrite"):
            changes.insert(0, DeletePath(path="/"))
        return head, self._versioning.stage(changes, None if head is None else TreeHash(head))

    def _head(self, row: CronRow) -> str | None:
        """The tree that the ticks show now."""
        try:
            return self._versioning.resolve(row.project, f"{row.repo}@{DEFAULT_BRANCH}")[1]
        except NotFoundError:
            return None

    def _commit(
        self, connection: Connection, row: CronRow, tree: TreeInfo, ticks: Sequence[float]
    ) -> Commit | None:
        named = tick_name(ticks[-1])[1:]
        description = named if len(ticks) == 1 else f"{len(ticks)} ticks until {named}"
        made = self._versioning.commit_aside(
            connection, row.project, row.repo, DEFAULT_BRANCH, tree=tree, description=description
        )
        log.info("cron %s/%s: %s", row.project, row.repo, description)
        return made


def _owner(pipeline: str) -> str:
    return f"pipeline:{pipeline}"
