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
        self.problem = ""
        """Why a file could not be given to who opened it, if one could not: he took its end for the end of the file."""
        self._link = link
        self._following = f"{folder}/pipe"
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
        if self._watcher is not None:
            self._watcher.join(END_SECONDS)
        for thread in self._fillers:
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
                self._failed(place, error)
            return False
        try:
            os.set_blocking(pipe, True)
            os.mkfifo(self._following, 0o644)
            os.rename(self._following, place)  # noqa: PTH104
            filler = threading.Thread(target=self._fill, args=(place, pipe), name="fill", daemon=True)
            filler.start()
        except (
            Exception
        ) as error:  # whatever it is: the other files are still looked after, and nobody waits for this one
            self._failed(place, error)
            os.close(pipe)
            with suppress(OSError):
                os.unlink(self._following)  # noqa: PTH108
            return False
        self._fillers = [thread for thread in self._fillers if thread.is_alive()] + [filler]
        return True

    def _failed(self, place: str, error: Exception) -> None:
        """To be called before the reader is told that there is no more."""
        if self.problem or self._end.is_set():
            return
        _, path = self._pipes[place]
        self.problem = (
            f"{path} of a lazy input could not be read: {getattr(error, 'strerror', None) or error}"
        )
        log.warning("the pipe %s could not be filled: %r", place, error)

    def _fill(self, place: str, pipe: int) -> None:
        root, path = self._pipes[place]
        try:
            written = [0]
            self._link.retrying(
                lambda client: self._send(client, root, path, pipe, written), give_up=self._end.is_set
            )
        except Exception as error:  # whatever it is: a part must not pass for the whole
            self._failed(place, error)
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
                    try:
                        size = os.write(pipe, view)
                    except BrokenPipeError:
                        return  # the reader has seen enough
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
