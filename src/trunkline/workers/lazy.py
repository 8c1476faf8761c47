"""Named pipes that are filled when they are opened: inputs of which a command reads little, or only from the front."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trunkline.core import filebatches, filestream
from trunkline.errors import TrunklineError
from trunkline.sdk.transport import Transport
from trunkline.workers.link import Link

log = logging.getLogger(__name__)

LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.002, 0.05
END_SECONDS = 5.0
PART_BYTES = 2**20


class LazyPipes:
    """Looks after the pipes of one datum. Each may be opened more than once, and is then filled from the front again: whoever
    opens it gets a pipe of his own, since another takes its place."""

    def __init__(self, link: Link, folder: Path) -> None:
        """``folder``: for pipes that are not in their place yet; on the same file system."""
        self._link = link
        self._folder = folder
        self._pipes: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._watcher: threading.Thread | None = None
        self._fillers: list[threading.Thread] = []

    def add(self, root: str, path: str, place: str) -> None:
        """Put a pipe at ``place`` that gives a file of a tree."""
        os.mkfifo(place, 0o644)
        with self._lock:
            self._pipes[place] = (root, path)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="lazy", daemon=True)
            self._watcher.start()

    def close(self) -> None:
        """Fill no more. Whoever read is gone, so that no filler waits."""
        self._end.set()
        for thread in [self._watcher, *self._fillers]:
            if thread is not None:
                thread.join(END_SECONDS)

    def _watch(self) -> None:
        wait = LOOK_SECONDS_MIN
        while not self._end.wait(wait):
            with self._lock:
                places = list(self._pipes)
            opened = [place for place in places if self._opened(place)]
            wait = LOOK_SECONDS_MIN if opened else min(wait * 1.5, LOOK_SECONDS_MAX)

    def _opened(self, place: str) -> bool:
        """Whether somebody reads; then it is being filled."""
        try:
            pipe = os.open(place, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                log.warning("the pipe %s cannot be filled: %s", place, error)
            return False
        os.set_blocking(pipe, True)
        following = f"{self._folder}/pipe"
        os.mkfifo(following, 0o644)
        os.rename(following, place)  # noqa: PTH104
        filler = threading.Thread(target=self._fill, args=(place, pipe), name="fill", daemon=True)
        self._fillers = [thread for thread in self._fillers if thread.is_alive()] + [filler]
        filler.start()
        return True

    def _fill(self, place: str, pipe: int) -> None:
        root, path = self._pipes[place]
        try:
            written = [0]
            self._link.retrying(
                lambda client: self._send(client, root, path, pipe, written), give_up=self._end.is_set
            )
        except BrokenPipeError:
            pass  # the reader has seen enough
        except (TrunklineError, OSError) as error:
            log.warning("%s could not be read: %s", path, error)
        finally:
            with suppress(OSError):
                os.close(pipe)

    def _send(self, client: Transport, root: str, path: str, pipe: int, written: list[int]) -> None:
        """``written``: what the reader has already, from an attempt whose connection broke."""
        passed = 0
        with client.download(
            f"/v1/filesets/{root}/archive", headers={"accept": filestream.MEDIA_TYPE}, ask={"paths": [path]}
        ) as stream:
            for part in _content(stream):
                view = memoryview(part)
                known = min(len(view), written[0] - passed)
                passed += len(view)
                view = view[known:]
                while view:
                    size = os.write(pipe, view)
                    written[0] += size
                    view = view[size:]


def _content(stream: filestream.Source) -> Iterator[bytes | memoryview]:
    """The content of a stream's only file; each part is good until the next one."""
    for item in filebatches.read_batches(stream, filebatches.Buffers()):
        if isinstance(item, filebatches.LargeFile):
            buffer = memoryview(bytearray(PART_BYTES))
            while size := item.fill(buffer):
                yield buffer[:size]
        else:
            yield from item.contents
