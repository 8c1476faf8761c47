"""Other people's buckets, to write to: ``s3://``, ``gs://`` and ``az://`` URLs, through obstore.

An object appears under its name when it is whole, which is what these services promise of every put. Credentials come from the
server's own environment, as in ``buckets``. The library is imported when it is first used.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from trunkline.errors import (
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    TrunklineError,
    UnavailableError,
)

SCHEMES = ("s3", "gs", "az")
DELETE_KEYS = 500
PART_BYTES = 8 * 2**20
REQUEST_SECONDS = 120.0
CONNECT_SECONDS = 10.0
RETRIES_MAX = 3
RETRY_SECONDS_MAX = 30.0
"""The library's own retries; whoever calls has theirs."""

_URL = re.compile(
    r"(?P<scheme>s3|gs|az)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?", re.DOTALL
)
_LASTING = ("PermissionDeniedError", "UnauthenticatedError")
_PASSING = ("GenericError", "BaseError", "JoinError")


class BucketWriter:
    """A bucket and a prefix of its keys."""

    def __init__(self, url: str, *, s3_endpoint: str | None = None) -> None:
        """:raises InvalidInputError: ``bad_url``."""
        found = _URL.fullmatch(url)
        prefix = (found["prefix"] or "").strip("/") if found else ""
        if (
            found is None
            or ".." in found["bucket"]
            or any(part in ("", ".", "..") for part in prefix.split("/")[:-1])
        ):
            raise InvalidInputError(
                f"URL {url[:200]!r} is not usable: write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
                kind="bad_url",
            )
        self._scheme, self._bucket = found["scheme"], found["bucket"]
        self._prefix = f"{prefix}/" if prefix else ""
        self._s3_endpoint = s3_endpoint
        self._opened: tuple[Any, Any] | None = None

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self._bucket}/{self._prefix}"

    def put(self, key: str, content: bytes | Iterable[bytes]) -> None:
        """Write an object, over whatever has its name. An iterable is sent in parts, and may be of any length."""
        library, store = self._open()
        with self._translated(key):
            if isinstance(content, bytes):
                library.put(store, self._prefix + key, content, use_multipart=False)
            else:
                library.put(
                    store, self._prefix + key, iter(content), use_multipart=True, chunk_size=PART_BYTES, max_concurrency=4
                )  # fmt: skip

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is fine."""
        library, store = self._open()
        for start in range(0, len(keys), DELETE_KEYS):
            some = [self._prefix + key for key in keys[start : start + DELETE_KEYS]]
            try:
                with self._translated(some[0]):
                    library.delete(store, some)
            except NotFoundError:  # some services say so; the others of the batch may still be there
                self._delete_each(library, store, some)

    def _delete_each(self, library: Any, store: Any, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                with self._translated(key):
                    library.delete(store, key)
            except NotFoundError:
                pass

    def _open(self) -> tuple[Any, Any]:
        if self._opened is None:
            try:
                library: Any = importlib.import_module("obstore")
                stores: Any = importlib.import_module("obstore.store")
            except ImportError as error:
                raise InvalidInputError(
                    f"{self._scheme}:// needs the package 'obstore' on the server: pip install 'trunkline[s3]'",
                    kind="no_obstore",
                ) from error
            with self._translated(""):
                self._opened = library, self._store(stores)
        return self._opened

    def _store(self, stores: Any) -> Any:
        options: dict[str, Any] = {
            "client_options": {
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            },
            "retry_config": {
                "max_retries": RETRIES_MAX,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS_MAX),
            },
        }
        if self._scheme == "gs":
            return stores.GCSStore(self._bucket, **options)
        if self._scheme == "az":
            return stores.AzureStore(self._bucket, **options)
        if self._s3_endpoint is not None:
            options["client_options"]["allow_http"] = self._s3_endpoint.startswith("http://")
            options |= {"endpoint": self._s3_endpoint, "virtual_hosted_style_request": False}
        return stores.S3Store(self._bucket, **options)

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """What the library says may hold headers and more: it is the cause, never the message."""
        place = f"{self._scheme}://{self._bucket}/{self._prefix}{key}"
        try:
            yield
        except (TrunklineError, GeneratorExit):
            raise
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no {place}", kind="no_object") from error
        except Exception as error:
            name = type(error).__name__
            if name == "NotFoundError":
                raise NotFoundError(
                    f"there is no {place}: see that the bucket exists", kind="no_object"
                ) from error
            if name in _LASTING:
                raise PermissionDeniedError(
                    f"{place} may not be written with the credentials that the server has (its AWS_*, GOOGLE_* or AZURE_* "
                    "environment)",
                    kind="bucket_refused",
                ) from error
            if name in _PASSING:
                raise UnavailableError(
                    f"{place} cannot be written ({name}): see that the service answers and that the server has credentials "
                    "for it",
                    kind="bucket_failed",
                ) from error
            if name in ("InvalidPathError", "NotSupportedError", "ValueError", "PyValueError"):
                raise InvalidInputError(
                    f"{place} cannot be written ({name})", kind="bucket_failed"
                ) from error
            raise
