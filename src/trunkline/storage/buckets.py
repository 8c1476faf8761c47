"""Other people's buckets, read only: ``s3://bucket/prefix`` and ``gs://bucket/prefix``, through obstore.

Credentials come from the server's own environment (``AWS_*``, ``GOOGLE_*``), as every tool for buckets finds them; never from a
request. The library is imported when it is first used.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from trunkline.errors import InvalidInputError, NotFoundError, TrunklineError, UnavailableError

SCHEMES = ("s3", "gs")
PART_BYTES = 2**20
LIST_ITEMS = 1000
REQUEST_SECONDS = 120.0
CONNECT_SECONDS = 10.0

_URL = re.compile(
    r"(?P<scheme>s3|gs)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:/(?P<key>.*))?", re.DOTALL
)
_ADDRESS = re.compile(r"[\d.]+")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A bucket and what follows it in a URL."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


@dataclass(frozen=True, kw_only=True)
class Item:
    """An object in a bucket."""

    key: str
    size: int
    modified_at: float
    etag: str | None


def is_bucket_url(url: str) -> bool:
    return url.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def parse_place(url: str) -> Place:
    """:raises InvalidInputError: ``bad_url``."""
    found = _URL.fullmatch(url)
    if found is None or _ADDRESS.fullmatch(found["bucket"]) or ".." in found["bucket"]:
        raise InvalidInputError(
            f"URL {url[:200]!r} is not usable: write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX", kind="bad_url"
        )
    return Place(scheme=found["scheme"], bucket=found["bucket"], key=(found["key"] or ""))


class Buckets:
    """Opens buckets. ``s3_endpoint`` is for what speaks S3 but is not Amazon's; only the operator can set it."""

    def __init__(self, *, s3_endpoint: str | None = None) -> None:
        self._s3_endpoint = s3_endpoint

    def find(self, place: Place) -> Iterator[Item]:
        """All objects whose keys begin with the place's key, in order."""
        library, store = self._open(place)
        prefix = place.key.rpartition("/")[0]  # the library only knows whole components
        with _translated(place):
            for batch in library.list(store, prefix or None, chunk_size=LIST_ITEMS):
                for found in batch:
                    if found["path"].startswith(place.key):
                        yield _item(found)

    def head(self, place: Place) -> Item | None:
        """One object, or None if there is none of that name."""
        if not place.key or place.key.endswith("/"):
            return None
        library, store = self._open(place)
        try:
            with _translated(place):
                return _item(library.head(store, place.key))
        except NotFoundError:
            return None

    def expand(self, place: Place, target: str, *, recursive: bool) -> Iterator[tuple[str, str, Item]]:
        """What a URL means, as ``(key, path, object)``: the object of that name as ``target``, or with ``recursive`` all
        objects below it as a folder, below ``target``. Empty objects that only stand for folders are left out.

        :raises NotFoundError: ``no_object``.
        """
        if not recursive and (one := self.head(place)) is not None:
            yield place.key, target, one
            return
        prefix = place.key.rstrip("/") + "/" if place.key.strip("/") else ""
        folder = Place(scheme=place.scheme, bucket=place.bucket, key=prefix)
        count = 0
        for item in self.find(folder):
            if not recursive:
                raise InvalidInputError(f"{place} is a folder: put it with -r", kind="is_directory")
            count += 1
            # The library takes the slash off the keys of empty objects that stand for folders: those cannot be found.
            if item.size or self.head(Place(scheme=place.scheme, bucket=place.bucket, key=item.key)):
                yield item.key, f"{target.rstrip('/')}/{item.key[len(prefix) :]}", item
        if not count and (one := self.head(place)) is not None:
            yield place.key, target, one
        elif not count:
            raise NotFoundError(f"there is nothing at {place}", kind="no_object")

    def read(self, place: Place) -> Iterator[bytes]:
        """The content of one object, part by part."""
        library, store = self._open(place)
        with _translated(place):
            for part in library.get(store, place.key).stream(min_chunk_size=PART_BYTES):
                yield bytes(part)

    def read_range(self, place: Place, offset: int, length: int) -> bytes:
        """Part of one object."""
        library, store = self._open(place)
        with _translated(place):
            return bytes(library.get_range(store, place.key, start=offset, length=length))

    def _open(self, place: Place) -> tuple[Any, Any]:
        try:
            library: Any = importlib.import_module("obstore")
            stores: Any = importlib.import_module("obstore.store")
        except ImportError as error:
            raise UnavailableError(
                f"{place.scheme}:// needs the package 'obstore' on the server: pip install 'trunkline[s3]'",
                kind="no_obstore",
            ) from error
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        }
        with _translated(place):
            if place.scheme == "gs":
                return library, stores.GCSStore(place.bucket, client_options=client)
            if self._s3_endpoint is None:
                return library, stores.S3Store(place.bucket, client_options=client)
            client["allow_http"] = self._s3_endpoint.startswith("http://")
            store = stores.S3Store(
                place.bucket,
                endpoint=self._s3_endpoint,
                virtual_hosted_style_request=False,
                client_options=client,
            )
            return library, store


def _item(found: Any) -> Item:
    return Item(
        key=found["path"],
        size=found["size"],
        modified_at=found["last_modified"].timestamp(),
        etag=found.get("e_tag"),
    )


@contextmanager
def _translated(place: Place) -> Iterator[None]:
    """What the library says may hold headers and more: it is the cause, never the message."""
    try:
        yield
    except (TrunklineError, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {place}", kind="no_object") from error
    except Exception as error:
        name = type(error).__name__
        if name == "NotFoundError":
            raise NotFoundError(f"there is no {place}", kind="no_object") from error
        if name in ("PermissionDeniedError", "UnauthenticatedError"):
            raise InvalidInputError(
                f"{place} may not be read with the credentials that the server has (its AWS_* or GOOGLE_* environment)",
                kind="bucket_refused",
            ) from error
        if name == "InvalidPathError":
            raise InvalidInputError(f"{place} has a key that is not a path", kind="bad_path") from error
        if name not in (
            "GenericError",
            "BaseError",
            "JoinError",
            "NotSupportedError",
            "ValueError",
            "PyValueError",
        ):
            raise
        raise UnavailableError(
            f"{place} cannot be read ({name}): see that the bucket exists and that the server has credentials for it",
            kind="bucket_failed",
        ) from error
