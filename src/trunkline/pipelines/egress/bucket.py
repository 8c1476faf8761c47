"""Egress to a bucket: ``s3://``, ``gs://`` and ``az://``. Small files go several at a time, large ones in parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from trunkline.errors import TrunklineError
from trunkline.pipelines.egress.base import Parcel, Stopped, Target
from trunkline.storage.bucketwriter import BucketWriter
from trunkline.versioning.model import FileInfo

AT_ONCE = 8
WAITING_MAX = 2 * AT_ONCE
SMALL_BYTES = 8 * 2**20
DELETE_KEYS = 500


class BucketTarget(Target):
    """A prefix of a bucket's keys."""

    def __init__(self, writer: BucketWriter) -> None:
        self._writer = writer

    @property
    def name(self) -> str:
        return self._writer.url

    def send(self, parcel: Parcel) -> None:
        sent: deque[tuple[FileInfo, Future[None]]] = deque()

        def settle(left: int) -> None:
            while len(sent) > left:
                info, future = sent.popleft()
                future.result()
                parcel.written.files_written += 1
                parcel.written.bytes_written += info.size

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="egress") as pool:
            try:
                for info, parts in parcel.contents():
                    content = b"".join(parts) if info.size <= SMALL_BYTES else None
                    if content is not None:
                        sent.append((info, pool.submit(self._writer.put, info.path[1:], content)))
                        settle(WAITING_MAX)
                    else:
                        settle(0)
                        self._put_large(info, _checked(parts, parcel.check))
                        parcel.written.files_written += 1
                        parcel.written.bytes_written += info.size
                settle(0)
            finally:
                for _, future in sent:
                    future.cancel()
        self._delete(parcel)

    def _put_large(self, info: FileInfo, parts: _Checked) -> None:
        try:
            self._writer.put(info.path[1:], parts)
        except Exception:
            # The library passes on errors of what it reads as its own.
            if parts.error is not None:
                raise parts.error from None
            raise

    def _delete(self, parcel: Parcel) -> None:
        deleted = parcel.deleted()
        while some := list(islice(deleted, DELETE_KEYS)):
            parcel.check()
            self._writer.delete(some)
            parcel.written.files_deleted += len(some)


class _Checked:
    """The parts of a large file; looks now and then whether it is still wanted."""

    def __init__(self, parts: Iterator[bytes], check: Callable[[], None]) -> None:
        self._parts = parts
        self._check = check
        self.error: TrunklineError | Stopped | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            size = 0
            for part in self._parts:
                size += len(part)
                if size >= SMALL_BYTES:
                    self._check()
                    size = 0
                yield bytes(part)
        except (TrunklineError, Stopped) as error:
            self.error = error
            raise


def _checked(parts: Iterator[bytes], check: Callable[[], None]) -> _Checked:
    return _Checked(parts, check)
