"""One request as the door's operations see it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import Request

from trunkline.access.model import Identity
from trunkline.api.direct import Piece
from trunkline.api.stream import BodyReader
from trunkline.core.ids import TreeHash
from trunkline.doors.s3.buckets import Bucket, parse_bucket
from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.payload import Signing, checked
from trunkline.doors.s3.signature import decode_uri, parse_query
from trunkline.pipelines.s3 import JobBucket
from trunkline.services import Services

DOCUMENT_BYTES_MAX = 8 * 2**20
"""Of XML: 10,000 parts with checksums have about three."""
VIRTUAL_HOST = ".localhost"
IDLE_SECONDS_MAX = 60.0
LARGE_BYTES = 2**20
LARGE_WRITES_MAX = 2
"""At once; each may need some 60 MB of memory until its packs are on the disk, and uses several processors."""
LARGE_READS_MAX = 12
LARGE_WAIT_SECONDS = 30.0
WINDOW_BYTES = 2**19
"""Large objects are read so much at a time; reading further ahead would cost memory for every client."""


class Room:
    """Bounds on memory: large bodies wait here for each other."""

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)

    @contextlib.contextmanager
    def for_bytes(self, size: int | None) -> Iterator[None]:
        """None: it is not known. :raises S3Error: ``SlowDown``; clients try again then."""
        if size is not None and size <= LARGE_BYTES:
            yield
            return
        if not self._places.acquire(timeout=LARGE_WAIT_SECONDS):
            raise S3Error("SlowDown", "too many large objects are on their way: try again", 503)
        try:
            yield
        finally:
            self._places.release()


@dataclass(kw_only=True)
class Call:
    """Method, bucket, key, query and headers, taken apart; the body, not yet read."""

    services: Services
    method: str
    raw_path: bytes
    bucket_name: str
    key: str
    pairs: list[tuple[str, str]]
    headers: Headers
    raw_headers: list[tuple[bytes, bytes]]
    body: BodyReader
    writes: Room
    reads: Room
    for_jobs: bool = False
    query: dict[str, str] = field(init=False)
    identity: Identity | None = None
    job_buckets: Mapping[str, JobBucket] | None = None
    """All that there are, if a job calls at its own door."""
    signing: Signing | None = None
    """Set once the signature has been found good."""
    verified: dict[str, str] = field(default_factory=dict)
    """Checksums of the body that were given and are right, by header name."""

    def __post_init__(self) -> None:
        self.query = dict(self.pairs)

    @property
    def bucket(self) -> Bucket:
        """:raises S3Error: ``InvalidBucketName`` or ``NoSuchBucket``."""
        return self.bucket_named(self.bucket_name)

    def bucket_named(self, name: str) -> Bucket:
        """What a bucket's name means to whoever calls.

        :raises S3Error: ``InvalidBucketName`` or ``NoSuchBucket``.
        """
        if self.job_buckets is None:
            return parse_bucket(name)
        found = self.job_buckets.get(name)
        if found is None:
            known = ", ".join(self.job_buckets) or "none"
            raise S3Error("NoSuchBucket", f"this job has no bucket {name!r}; it has {known}", 404)
        return Bucket(
            name=name, project=found.project, repo=found.repo, branch=None, commit=found.commit, owner=found.owner,
            is_pinned=True,
        )  # fmt: skip

    def parts(self) -> Iterator[bytes]:
        """The body, decoded; what is wrong with it is raised before the end, so that nothing is kept of it."""
        assert self.signing is not None, "the signature is checked before any operation begins"
        return checked(self.body.parts(), self.headers, self.signing, self.verified)

    def room(self) -> AbstractContextManager[None]:
        """For storing the body."""
        size = self.headers.get("content-length", "")
        return self.writes.for_bytes(int(size) if size.isascii() and size.isdigit() else None)

    def content(self, root: TreeHash, path: str, offset: int, length: int) -> Iterator[Sequence[Piece]]:
        """A range of a file, which takes its place among the large ones that are read while it is; in batches that are good
        until the next one is asked for."""
        with self.reads.for_bytes(length):
            for at in range(offset, offset + length, WINDOW_BYTES):
                size = min(WINDOW_BYTES, offset + length - at)
                yield from self.services.versioning.read_range(root, path, offset=at, length=size)

    def document(self) -> bytes:
        """A body that is an XML document. :raises S3Error: ``EntityTooLarge``."""
        data = bytearray()
        for part in self.parts():
            data += part
            if len(data) > DOCUMENT_BYTES_MAX:
                raise S3Error(
                    "EntityTooLarge", f"an XML document has at most {DOCUMENT_BYTES_MAX} bytes", 413
                )
        return bytes(data)

    def integer(self, name: str, default: int, at_most: int) -> int:
        """A number in the query, cut to ``at_most``. :raises S3Error: ``InvalidArgument``."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 10:
            raise S3Error(
                "InvalidArgument", f"{name} must be a number from 0 to 2147483647", ArgumentName=name
            )
        return min(int(text), at_most)


def call_of(services: Services, request: Request) -> Call:
    """Take a request apart: ``/bucket/key``, or ``/key`` where the host is ``bucket.localhost``.

    :raises S3Error: ``InvalidURI``.
    """
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    host = request.headers.get("host", "").partition(":")[0]
    if host.lower().endswith(VIRTUAL_HOST):
        bucket, key = host[: -len(VIRTUAL_HOST)], decode_uri(raw_path[1:])
    else:
        first, _, rest = raw_path[1:].partition(b"/")
        bucket, key = decode_uri(first), decode_uri(rest)
    return Call(
        services=services, method=request.method, raw_path=raw_path, bucket_name=bucket, key=key,
        pairs=parse_query(request.scope["query_string"]), headers=request.headers,
        raw_headers=request.scope["headers"], body=BodyReader(request, idle_seconds=IDLE_SECONDS_MAX),
        writes=request.app.state.writes, reads=request.app.state.reads,
        for_jobs=request.app.state.for_jobs,
    )  # fmt: skip
