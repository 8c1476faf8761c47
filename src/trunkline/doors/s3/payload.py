"""Bodies: plain, or in signed or unsigned chunks (``aws-chunked``) with checksums behind them; checked as they pass.

``crc32c`` and ``crc64nvme`` are computed where ``awscrt`` is installed, and else accepted as they are: the standard library has
neither, and in Python they would take longer than everything else together.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.signature import Claim, sign_chunk, sign_trailer

UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMED_UNSIGNED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
LINE_BYTES_MAX = 4096
TRAILERS_MAX = 16

_CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?")


@dataclass(frozen=True, kw_only=True)
class Signing:
    """What is known of a request whose signature is good."""

    claim: Claim
    key: bytes
    payload: str
    """Of ``x-amz-content-sha256``: a hash, or one of the words above."""


class Hasher(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, step: Callable[[bytes, int], int], size: int) -> None:
        self._step = step
        self._size = size
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _crc_of_aws(name: str, size: int) -> Hasher | None:
    """None where the extra is not installed."""
    try:
        from awscrt import checksums  # noqa: PLC0415 (an extra; only who needs it pays)
    except ImportError:
        return None
    return _Crc(getattr(checksums, name), size)


def _hasher(header: str) -> Hasher | None:
    if header == "content-md5":
        return hashlib.md5(usedforsecurity=False)
    if header == "x-amz-checksum-sha1":
        return hashlib.sha1(usedforsecurity=False)
    if header == "x-amz-checksum-sha256":
        return hashlib.sha256()
    if header == "x-amz-checksum-crc32c":
        return _crc_of_aws("crc32c", 4)
    if header == "x-amz-checksum-crc64nvme":
        return _crc_of_aws("crc64nvme", 8)
    return _Crc(zlib.crc32, 4)


CHECKSUMS = (
    "content-md5", "x-amz-checksum-crc32", "x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme", "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
)  # fmt: skip


def checked(
    parts: Iterator[bytes], headers: Mapping[str, str], signing: Signing, verified: dict[str, str]
) -> Iterator[bytes]:
    """The content of a body. Whatever is wrong with it is raised before the iterator ends.

    :raises S3Error: ``XAmzContentSHA256Mismatch``, ``SignatureDoesNotMatch`` (of a chunk), ``BadDigest``,
        ``InvalidDigest``, ``IncompleteBody``, ``InvalidRequest`` or ``MalformedTrailerError``.
    """
    trailers: dict[str, str] = {}
    expected = {name: headers[name] for name in CHECKSUMS if name in headers}
    promised = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",") if name.strip()]
    names = [*expected, *(name for name in promised if name in CHECKSUMS and name not in expected)]
    hashers = {name: hasher for name in names if (hasher := _hasher(name)) is not None}
    is_chunked = signing.payload.startswith("STREAMING-")
    size = 0
    for part in _unchunked(parts, signing, trailers) if is_chunked else _plain(parts, signing.payload):
        size += len(part)
        for hasher in hashers.values():
            hasher.update(part)
        yield part
    wanted = headers.get("x-amz-decoded-content-length" if is_chunked else "content-length")
    if wanted is not None and wanted != str(size):
        raise S3Error("IncompleteBody", f"the body has {size} bytes; {wanted} were announced")
    if missing := [name for name in promised if name not in trailers]:
        raise S3Error("MalformedTrailerError", f"the trailer {missing[0]} was announced and is missing")
    expected.update((name, trailers[name]) for name in promised if name in CHECKSUMS)
    for name, value in expected.items():
        digest = _decoded(name, value)
        if name in hashers:
            if not hmac.compare_digest(hashers[name].digest(), digest):
                raise S3Error("BadDigest", f"the content does not have the checksum that {name} gives")
            verified[name] = value


def _decoded(name: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidDigest", f"{name} is not base64") from error


def _plain(parts: Iterator[bytes], payload: str) -> Iterator[bytes]:
    if payload == UNSIGNED:
        yield from parts
        return
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
        yield part
    if not hmac.compare_digest(hasher.hexdigest(), payload):
        raise S3Error(
            "XAmzContentSHA256Mismatch", "the content does not have the hash that x-amz-content-sha256 gives"
        )


def _unchunked(parts: Iterator[bytes], signing: Signing, trailers: dict[str, str]) -> Iterator[bytes]:
    source = _Source(parts)
    is_signed = signing.payload in (STREAMED, STREAMED_TRAILER)
    before = signing.claim.signature
    while True:
        found = _CHUNK.fullmatch(source.line())
        if found is None or is_signed != (found[2] is not None):
            raise S3Error("InvalidRequest", "a chunk of the body has no proper header")
        size = int(found[1], 16)
        hasher = hashlib.sha256()
        for piece in source.take(size):
            if is_signed:
                hasher.update(piece)
            yield piece
        if is_signed:
            before = _next_signature(
                sign_chunk(signing.key, signing.claim, before, hasher.hexdigest()), found[2]
            )
        if size == 0:
            break
        if source.line():
            raise S3Error("InvalidRequest", "a chunk of the body is longer than its header says")
    has_trailer = signing.payload != STREAMED
    if has_trailer:
        _read_trailers(source, signing, before if is_signed else None, trailers)
    source.end()


def _next_signature(right: str, given: bytes) -> str:
    if not hmac.compare_digest(right.encode(), given):
        raise S3Error("SignatureDoesNotMatch", "the signature of a chunk of the body is wrong", 403)
    return right


def _read_trailers(source: _Source, signing: Signing, before: str | None, trailers: dict[str, str]) -> None:
    text = b""
    given: bytes | None = None
    while line := source.line(at_end=b""):
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if not colon or len(trailers) >= TRAILERS_MAX:
            raise S3Error("MalformedTrailerError", "the headers behind the body cannot be read")
        if name == b"x-amz-trailer-signature":
            given = value.strip()
        else:
            trailers[name.decode("latin-1")] = value.strip().decode("latin-1")
            text += name + b":" + value.strip() + b"\n"
    if before is not None:
        right = sign_trailer(signing.key, signing.claim, before, hashlib.sha256(text).hexdigest())
        _next_signature(right, given or b"")


class _Source:
    """Lines and runs of bytes from a stream of parts."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._data = b""
        self._at = 0

    def line(self, at_end: bytes | None = None) -> bytes:
        """Up to the next CRLF; ``at_end``: what to return where the stream has ended."""
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            if len(self._data) - self._at > LINE_BYTES_MAX:
                raise S3Error("InvalidRequest", "a chunk of the body has no proper header")
            if not self._more():
                if at_end is not None and self._at == len(self._data):
                    return at_end
                raise _cut_off()
        found = self._data[self._at : end]
        if len(found) > LINE_BYTES_MAX:
            raise S3Error("InvalidRequest", "a chunk of the body has no proper header")
        self._at = end + 2
        return found

    def take(self, size: int) -> Iterator[bytes]:
        while size:
            if self._at == len(self._data) and not self._more():
                raise _cut_off()
            piece = self._data[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def end(self) -> None:
        """Nothing but empty lines may follow."""
        while self._at == len(self._data) and self._more():
            pass
        if self._data[self._at :].strip(b"\r\n"):
            raise S3Error("InvalidRequest", "something follows the last chunk of the body")
        for part in self._parts:
            if part.strip(b"\r\n"):
                raise S3Error("InvalidRequest", "something follows the last chunk of the body")

    def _more(self) -> bool:
        part = next(self._parts, b"")
        self._data = self._data[self._at :] + part
        self._at = 0
        return bool(part)


def _cut_off() -> S3Error:
    return S3Error("IncompleteBody", "the body ends in the middle of a chunk")
