"""What the datums of a set came to, sent in batches: one upload for the outputs of all, then one call that names them.

A thread of its own sends, so that commands do not wait for the network. What was sent is safe; what was not is done again by
whoever gets the set, should this worker die.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trunkline.errors import ConflictError, NotFoundError, TrunklineError, UnavailableError
from trunkline.sdk.transport import Transport
from trunkline.workers.inputs import retrying
from trunkline.workers.lease import Interrupted, TaskContext
from trunkline.workers.outputs import Found, View, outputs_of
from trunkline.workers.scratch import remove_tree

log = logging.getLogger(__name__)

SEND_SECONDS = 0.25
SEND_RESULTS_MAX = 500
SEND_BYTES_MAX = 64 * 2**20
WAITING_BATCHES_MAX = 2
TELL_CURRENT_SECONDS = 1.0
REASON_CHARACTERS_MAX = 2000


@dataclass(kw_only=True)
class Result:
    """How one datum ended."""

    id: str
    status: str
    attempts: int
    reason: str = ""
    began: float = field(default_factory=time.monotonic)
    """When its last try began, by the clock of this machine that never goes back."""
    stats: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    file_count: int = 0
    copies: list[tuple[str, str, str]] = field(default_factory=list)
    """Files that are copies of an input's: ``(name, tree, path)``."""

    def told(self, root: str | None) -> dict[str, Any]:
        """As the server is told; ``root`` holds the outputs of all. What is as it would be taken to be is left out: there may be
        many of these."""
        told: dict[str, Any] = {
            "id": self.id, "status": self.status, "attempts": self.attempts, "stats": self.stats,
            "seconds_ago": round(time.monotonic() - self.began, 4),
        }  # fmt: skip
        if self.reason:
            told["reason"] = self.reason[:REASON_CHARACTERS_MAX]
        if self.file_count:
            told |= {"size": self.size, "file_count": self.file_count}
            if root is not None:
                told |= {"root": root, "prefix": f"/{self.id}"}
        return told


@dataclass(kw_only=True)
class _Batch:
    folder: Path
    results: list[Result] = field(default_factory=list)
    size: int = 0
    since: float = 0.0
    is_last: bool = False
    """With it the set ends."""


class Results:
    """The results of one set; ``add`` from the main thread, until ``close``."""

    def __init__(self, context: TaskContext, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._taken = folder / "taken"
        """What the datum that has just ended left. (The open batch may be sent at any moment.)"""
        self._changed = threading.Condition()
        self._number = 0
        self._open = self._new_batch()
        self._waiting: list[_Batch] = []
        self._sending = False
        self._closing = False
        self._failure: Exception | None = None
        self.current: str | None = None
        self._began = time.monotonic()
        self._told: str | None = None
        self._told_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self._thread.start()

    def take_outputs(self, result: Result, view: View) -> None:
        """Move what a datum left in ``/pfs/out`` to what will be sent with its result.

        :raises InvalidInputError: ``bad_output``, naming what cannot be stored.
        """
        top = view.host(view.top)
        found = list(outputs_of(view))
        result.size = sum(one.size for one in found)
        result.file_count = len(found)
        if not found:
            return
        result.copies = [(one.name, *one.source) for one in found if one.source is not None]
        folder = self._taken
        folder.mkdir()
        if any(one.is_linked for one in found):
            _gather(found, folder)
        else:
            for name in os.listdir(top):  # noqa: PTH208
                os.rename(f"{top}/{name}", f"{folder}/{name}")  # noqa: PTH104

    def forget_outputs(self, result: Result) -> None:
        """What was taken of a datum that failed after all."""
        remove_tree(self._taken)
        result.size = result.file_count = 0
        result.copies = []

    def add(self, result: Result) -> None:
        """Send it soon. Waits while far too much is on its way.

        :raises Exception: why the results before it could not be sent.
        """
        with self._changed:
            batch = self._open
            result.began = self._began
            if result.file_count and self._taken.exists():
                self._taken.rename(batch.folder / result.id)
            if not batch.results:
                batch.since = time.monotonic()
            batch.results.append(result)
            batch.size += result.size
            if len(batch.results) >= SEND_RESULTS_MAX or batch.size >= SEND_BYTES_MAX:
                self._put_away()
            elif len(batch.results) == 1:
                self._changed.notify_all()
            while len(self._waiting) >= WAITING_BATCHES_MAX and not self._is_over:
                self._changed.wait()
            self._check()

    def begin(self, datum_id: str) -> None:
        """Name what is being worked on."""
        self.current, self._began = datum_id, time.monotonic()

    def flush(self) -> None:
        """Wait until all is sent; in careful mode, before each datum. The server then knows what is being worked on."""
        with self._changed:
            self._put_away(even_empty=self.current != self._told)
            self._changed.wait_for(lambda: not (self._waiting or self._sending) or self._is_over)
            self._check()

    def close(self, *, is_whole: bool = False) -> None:
        """Send what is left, and end; ``is_whole``: each datum of the set has its result."""
        with self._changed:
            self._open.is_last = is_whole
            self._put_away()
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._check()

    def abandon(self) -> None:
        """Send no more: nobody wants it."""
        with self._changed:
            self._waiting.clear()
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _is_over(self) -> bool:
        return self._failure is not None or self._context.interruption == "lost"

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _put_away(self, *, even_empty: bool = False) -> None:
        if self._open.results or even_empty:
            self._waiting.append(self._open)
            self._open = self._new_batch()
            self._changed.notify_all()

    def _new_batch(self) -> _Batch:
        self._number += 1
        folder = self._folder / f"batch-{self._number}"
        folder.mkdir(parents=True)
        return _Batch(folder=folder)

    # --- the sender ---

    def _run(self) -> None:
        while True:
            with self._changed:
                batch = self._next()
                if batch is None:
                    return
                self._sending = True
            try:
                self._send(batch)
            except Exception as error:  # raised where the results come from
                with self._changed:
                    self._failure = self._failure or error
                    self._waiting.clear()
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()
            remove_tree(batch.folder)

    def _next(self) -> _Batch | None:
        """What to send next; None at the end. Waits."""
        while True:
            if self._failure is not None:  # nothing is sent any more, whatever comes
                self._waiting.clear()
            if self._waiting:
                return self._waiting.pop(0)
            if self._closing:
                return None
            if self._failure is not None:
                self._changed.wait()
                continue
            now = time.monotonic()
            if self._open.results:
                due = self._open.since + SEND_SECONDS
                if now >= due:
                    self._put_away()
                    continue
                self._changed.wait(due - now)
            elif self.current != self._told and now >= self._told_at + TELL_CURRENT_SECONDS:
                self._put_away(even_empty=True)
            else:
                self._changed.wait(TELL_CURRENT_SECONDS)

    def _send(self, batch: _Batch) -> None:
        started = time.monotonic()
        results = batch.results
        try:
            root = self._upload(batch.folder, results)
        except (TrunklineError, OSError) as error:
            if len(results) == 1:
                root = None
                _fail(results[0], error)
            else:  # of one of them: which?
                for result in results:
                    self._send(_alone(batch, result))
                return
        seconds = time.monotonic() - started
        total = sum(result.size for result in results) or 1
        for result in results:
            if result.size:
                result.stats["upload_seconds"] = round(seconds * result.size / total, 4)
                result.stats["upload_bytes"] = result.size
        current = self.current
        body = {
            "token": self._context.task.token, "results": [result.told(root) for result in results],
            "current": current, "ends": batch.is_last,
        }  # fmt: skip
        if results:
            self._context.flush_log()  # whoever hears of a datum's end finds its whole log
        try:
            answer = self._context.call("POST", f"/v1/leases/{self._context.task.id}/progress", body)
        except (ConflictError, NotFoundError) as error:
            self._context.interrupt("lost")
            raise Interrupted from error
        self._told, self._told_at = current, time.monotonic()
        if answer and answer.get("stop"):
            self._context.interrupt("cancelled")
        if answer and answer.get("ended"):
            self._context.is_reported = True

    def _upload(self, folder: Path, results: Iterable[Result]) -> str | None:
        """One tree with the outputs of all, each below the datum's id; None if there are none."""
        copies = [
            {"path": f"/{result.id}/{name}", "root": tree, "source_path": path}
            for result in results
            for name, tree, path in result.copies
        ]
        root: str | None = None
        if any(result.file_count > len(result.copies) for result in results):

            def upload(client: Transport) -> Any:
                return client.upload_files("/v1/filesets", [("", folder)])

            root = retrying(self._context, upload)["root"]
        if copies:
            query = {"base": root}
            made = self._context.call("POST", "/v1/filesets/copies", {"copies": copies}, query)
            root = made["root"]
        return root


def _gather(found: Iterable[Found], folder: Path) -> None:
    """Files from here and there; what links lead to stays where it is."""
    here = sorted((one for one in found if one.source is None), key=lambda one: not one.is_linked)
    for one in here:  # links first: they may lead to what is moved
        target = folder / one.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not one.is_linked:
            Path(one.path).rename(target)
            continue
        try:
            os.link(one.path, target)
        except OSError:  # on another file system
            shutil.copy2(one.path, target)


def _fail(result: Result, error: Exception) -> None:
    """Its output cannot be stored: the work was for nothing, and would be again."""
    if isinstance(error, UnavailableError):
        raise error
    result.reason = (
        str(error) if isinstance(error, TrunklineError) else f"the output could not be read: {error}"
    )
    result.status, result.size, result.file_count, result.copies = "failed", 0, 0, []


def _alone(batch: _Batch, result: Result) -> _Batch:
    folder = batch.folder / f".{result.id}"
    folder.mkdir()
    if (batch.folder / result.id).exists():
        (batch.folder / result.id).rename(folder / result.id)
    return _Batch(folder=folder, results=[result])
