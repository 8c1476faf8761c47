"""From a socket to a file without copying what comes through this program.

See splice(2). The pipe between the two holds references to the socket's pages, which the kernel copies into the file once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

PIPE_BYTES = 256 * 1024
"""What a processor's cache holds beside the rest: a larger pipe is slower."""
IS_THERE = hasattr(os, "splice")
"""Linux only."""


NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
"""What a kernel says that cannot, or a sandbox that does not let."""


class CannotSpliceError(Exception):
    """It is to be read and written in the ordinary way."""


class Splice:
    """A pipe to an open file, or to whatever the descriptor stands for."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._out, self._in = os.pipe()
        with contextlib.suppress(OSError):  # the user's pipes are large enough already: it stays small
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.is_taken = True
        """Whether the target takes what is moved so; a terminal, say, does not, nor a file that is only appended to."""

    def fill(self, source: int, size: int) -> int:
        """Take at most ``size`` bytes from a socket, as many as have come; 0 at its end. The pipe must be empty.

        :raises BlockingIOError: if none have come yet.
        :raises CannotSpliceError: if that cannot be done here; nothing was taken.
        """
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        try:
            return os.splice(source, self._in, min(size, PIPE_BYTES), flags=flags)
        except OSError as error:
            if error.errno in NOT_HERE:
                raise CannotSpliceError from error
            raise

    def empty(self, size: int) -> None:
        """Give the target the ``size`` bytes that were taken.

        :raises OSError: as writing does; what is left in the pipe is lost.
        """
        while size and self.is_taken:
            try:
                size -= os.splice(self._out, self._target, size, flags=os.SPLICE_F_MOVE)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.is_taken = False
        while size:
            part = os.read(self._out, size)
            self.write(part)
            size -= len(part)

    def write(self, data: bytes) -> None:
        """Give the target something else."""
        part = memoryview(data)
        while part := part[os.write(self._target, part) :]:
            pass

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
