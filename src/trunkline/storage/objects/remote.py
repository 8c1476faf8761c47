"""Objects in a bucket: S3 and what speaks it, Google Cloud Storage, Azure.

The service promises what a disk must be asked for: an object is whole or absent, and durable once the put is answered.
Credentials come from the places where these services' own tools look (environment, web identity, instance metadata), and
are never read, logged or shown here. Interrupted uploads of large objects leave hidden parts behind: let a lifecycle rule of
the bucket remove them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain
from typing import Any

import obstore
from obstore import exceptions as raised
from obstore.store import from_url

from trunkline.errors import InvalidInputError, LimitError, NotFoundError, TrunklineError, UnavailableError
from trunkline.storage.objects.base import ObjectInfo, ObjectStore
from trunkline.storage.objects.local import check_key

SINGLE_PUT_BYTES_MAX = 32 * 2**20
"""A larger object goes up in parts; packs are smaller."""
PART_BYTES = 8 * 2**20
PARTS_AT_ONCE_MAX = 4
RETRIES_MAX = 6
RETRY_SECONDS = 60
REQUEST_SECONDS = 120
CONNECT_SECONDS = 5

_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge"})
_STATUS = re.compile(r"status code: (\d{3})([A-Za-z -]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")


class RemoteStore(ObjectStore):
    """A bucket, or what lies below a prefix of it. Several processes may share it.

    ``url`` is ``s3://bucket/prefix``, ``gs://…`` or ``az://…``; ``options`` are obstore's own names (``endpoint``, ``region``,
    ``access_key_id`` …), over what the environment says.

    :raises InvalidInputError: ``bad_objects_url``.
    """

    readers = 2  # while one waits for the network

    def __init__(
        self, url: str, options: Mapping[str, str] | None = None, *, retries: int = RETRIES_MAX
    ) -> None:
        self.url = url
        options = dict(options or {})
        client = {
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "allow_http": options.get("endpoint", "").startswith("http://"),
        }
        retry = {"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
        make: Any = from_url
        try:
            self._store = make(url, client_options=client, retry_config=retry, **options)
        except (raised.BaseError, ValueError, TypeError) as error:
            raise InvalidInputError(
                f"{url!r} is not a place for objects, or one of its settings is wrong: write s3://BUCKET/PREFIX",
                kind="bad_objects_url",
            ) from error

    def check(self) -> None:
        """Ask the bucket for something, so that a wrong name or credential is found now.

        :raises UnavailableError: saying which.
        """
        with self._translated(""), suppress(NotFoundError):
            for _ in obstore.list(self._store, chunk_size=1):
                return

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        if length == 0:
            self.head(key)
            return b""
        try:
            with self._translated(key):
                if length is not None:
                    return bytes(obstore.get_range(self._store, key, start=offset, length=length))
                if offset:
                    return bytes(obstore.get(self._store, key, options={"range": {"offset": offset}}).bytes())
                return bytes(obstore.get(self._store, key).bytes())
        except NotFoundError:
            raise
        except TrunklineError:
            # Behind the end? Services differ in how they say so; the object's size does not.
            if not offset or self.head(key).size > offset:
                raise
            return b""

    def put(self, key: str, parts: Iterable[bytes]) -> None:
        check_key(key)
        remaining = iter(parts)
        head: list[bytes] = []
        size = 0
        for part in remaining:
            head.append(part)
            size += len(part)
            if size > SINGLE_PUT_BYTES_MAX:
                break
        with self._translated(key, writes=True):
            if size <= SINGLE_PUT_BYTES_MAX:
                obstore.put(self._store, key, b"".join(head), use_multipart=False)
            else:
                self._put_in_parts(key, chain(head, remaining))

    def _put_in_parts(self, key: str, parts: Iterable[bytes]) -> None:
        """The object appears when the last part is confirmed; a source that breaks leaves none."""
        broken: list[BaseException] = []

        def guarded() -> Iterator[bytes]:
            try:
                yield from (part for part in parts if part)
            except BaseException as error:
                broken.append(error)
                raise

        try:
            obstore.put(
                self._store, key, guarded(), use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE_MAX
            )  # fmt: skip
        except BaseException as error:
            if broken:
                raise broken[0] from error
            raise

    def put_if(self, key: str, data: bytes, *, expected: bytes | None) -> bool:
        check_key(key)
        with self._translated(key, writes=True):
            try:
                if expected is None:
                    obstore.put(self._store, key, data, mode="create")
                    return True
                present = obstore.get(self._store, key)
                version = {name: present.meta[name] for name in ("e_tag", "version") if present.meta[name]}
                if bytes(present.bytes()) != expected:
                    return False
                obstore.put(self._store, key, data, mode=version)  # type: ignore[arg-type]
            except (raised.AlreadyExistsError, raised.PreconditionError, FileNotFoundError):
                return False
        return True

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        with self._translated(key):
            return _info(obstore.head(self._store, key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]  # services list whole folders
        with self._translated(prefix):
            for page in obstore.list(self._store, folder or None):
                for meta in page:
                    if meta["path"].startswith(prefix):
                        yield _info(meta)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._translated(key), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    @contextmanager
    def _translated(self, key: str, *, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except TrunklineError:
            raise
        except (raised.BaseError, FileNotFoundError, PermissionError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            if is_missing and key and not writes:
                raise NotFoundError(
                    f"there is no object {key!r}", kind="no_object", details={"key": key}
                ) from error
            raise self._meaning(error, key, is_missing) from error

    def _meaning(self, error: BaseException, key: str, is_missing: bool) -> TrunklineError:
        status = _STATUS.search(str(error))
        if is_missing or (status and status[1] == "404"):
            return UnavailableError(
                f"{self.url}: the bucket does not exist: create it first", kind="no_bucket"
            )
        if isinstance(
            error, PermissionError | raised.PermissionDeniedError | raised.UnauthenticatedError
        ) or (status and status[1] in ("401", "403")):
            return UnavailableError(
                f"{self.url}: access is refused: check the credentials in the server's environment",
                kind="objects_refused",
            )
        code = _CODE.search(str(error))
        if (status and status[1] == "507") or (code and code[1] in _FULL):
            return LimitError(
                f"{self.url} has no room for {key!r}: raise its quota or free some space, then try again",
                kind="disk_full",
            )
        return UnavailableError(f"{self.url}: {_summary(error)}", kind="objects_unavailable")


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(key=meta["path"], size=meta["size"], modified_at=meta["last_modified"].timestamp())


def _summary(error: BaseException) -> str:
    """What the service answered, or the first line of what the library says: the rest is its insides."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return f"it answers {status[1]} {status[2].strip()}" + (f" ({code[1]})" if code else "")
    return text.partition("\n")[0][:300] or type(error).__name__
