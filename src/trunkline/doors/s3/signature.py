"""AWS Signature Version 4, as far as it is arithmetic: what a request claims, and what its signature should be. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

from trunkline.doors.s3.errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
EXPIRES_SECONDS_MAX = 7 * 24 * 3600
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNRESERVED = "-_.~"

_CREDENTIAL = re.compile(r"([A-Za-z0-9]{1,128})/(\d{8})/([A-Za-z0-9_-]{1,64})/s3/aws4_request")
_TIMESTAMP = re.compile(r"\d{8}T\d{6}Z")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")

Pairs = Sequence[tuple[str, str]]
RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a request says about its own signature."""

    key_id: str
    region: str
    timestamp: str
    """``20130524T000000Z``."""
    signed_headers: tuple[str, ...]
    signature: str
    expires_seconds: int | None = None
    """Of a presigned URL."""

    @property
    def scope(self) -> str:
        return f"{self.timestamp[:8]}/{self.region}/s3/aws4_request"

    @property
    def at(self) -> float:
        """Seconds since the Unix epoch."""
        return datetime.strptime(self.timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def claim_of_header(authorization: str, timestamp: str) -> Claim:
    """:raises S3Error: ``AuthorizationHeaderMalformed``, or ``InvalidRequest`` for another algorithm."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise S3Error("InvalidRequest", f"requests are signed with {ALGORITHM} (Signature Version 4) here")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    return _claim(
        "AuthorizationHeaderMalformed",
        fields.get("Credential", ""),
        timestamp,
        fields.get("SignedHeaders", ""),
        fields.get("Signature", ""),
    )


def claim_of_query(query: Mapping[str, str]) -> Claim:
    """:raises S3Error: ``AuthorizationQueryParametersError``."""
    code = "AuthorizationQueryParametersError"
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise S3Error(code, f"X-Amz-Algorithm must be {ALGORITHM}")
    expires = query.get("X-Amz-Expires", "")
    if not re.fullmatch(r"\d{1,7}", expires) or not 1 <= int(expires) <= EXPIRES_SECONDS_MAX:
        raise S3Error(code, f"X-Amz-Expires must be between 1 and {EXPIRES_SECONDS_MAX} seconds")
    credential, timestamp, headers, signature = (
        query.get(f"X-Amz-{name}", "") for name in ("Credential", "Date", "SignedHeaders", "Signature")
    )
    return _claim(code, credential, timestamp, headers, signature, int(expires))


def _claim(
    code: str, credential: str, timestamp: str, headers: str, signature: str, expires_seconds: int | None = None
) -> Claim:  # fmt: skip
    found = _CREDENTIAL.fullmatch(credential)
    if found is None:
        raise S3Error(code, "the credential must read KEYID/YYYYMMDD/REGION/s3/aws4_request")
    if not _TIMESTAMP.fullmatch(timestamp) or timestamp[:8] != found[2]:
        raise S3Error(code, "the request's date (x-amz-date) is missing, or not that of its credential")
    names = tuple(headers.split(";"))
    if "host" not in names or list(names) != sorted({name.lower() for name in names}):
        raise S3Error(code, "the signed headers must be lower-case, sorted, and include host")
    if not _SIGNATURE.fullmatch(signature):
        raise S3Error(code, "the signature must be 64 lower-case hex digits")
    claim = Claim(
        key_id=found[1], region=found[3], timestamp=timestamp, signed_headers=names, signature=signature,
        expires_seconds=expires_seconds,
    )  # fmt: skip
    try:
        claim.at  # noqa: B018 (a date that does not exist is found here)
    except ValueError as error:
        raise S3Error(code, f"{timestamp!r} is not a date") from error
    return claim


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """:raises S3Error: ``InvalidURI``."""
    pairs = [part.partition(b"=")[::2] for part in raw.split(b"&") if part]
    return [
        (decode_uri(name.replace(b"+", b" ")), decode_uri(value.replace(b"+", b" "))) for name, value in pairs
    ]


def decode_uri(raw: bytes) -> str:
    """:raises S3Error: ``InvalidURI``."""
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI", "the URI is not UTF-8") from error


def canonical_request(
    method: str, path: bytes, query: Pairs, headers: RawHeaders, signed: Sequence[str], payload: str
) -> bytes:
    """The text that is signed; ``path`` from ``canonical_paths``, ``query`` without the signature itself."""
    values: dict[str, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1").lower(), []).append(b" ".join(value.split()))
    pairs = sorted((quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in query)
    lines = [
        method.encode(),
        path,
        "&".join(f"{name}={value}" for name, value in pairs).encode(),
        *(name.encode() + b":" + b",".join(values.get(name, [])) for name in signed),
        b"",
        ";".join(signed).encode(),
        payload.encode(),
    ]
    return b"\n".join(lines)


def canonical_paths(raw: bytes) -> list[bytes]:
    """How the path may have been written when it was signed: encoded as AWS says, or as it was sent (clients differ about
    ``%2F``). Both mean the same key."""
    return list(dict.fromkeys((quote(unquote_to_bytes(raw), safe="/" + UNRESERVED).encode() or b"/", raw)))


def signing_key(secret: str, claim: Claim) -> bytes:
    """The key of one day and region."""
    key = f"AWS4{secret}".encode()
    for part in claim.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign_request(key: bytes, claim: Claim, canonical: bytes) -> str:
    """The signature that the request should have."""
    return _sign(key, ALGORITHM, claim, hashlib.sha256(canonical).hexdigest())


def sign_chunk(key: bytes, claim: Claim, before: str, chunk_sha256: str) -> str:
    """Of one chunk of a streamed body; ``before`` is the signature of the one before, or of the request."""
    return _sign(key, f"{ALGORITHM}-PAYLOAD", claim, before, EMPTY_SHA256, chunk_sha256)


def sign_trailer(key: bytes, claim: Claim, before: str, trailer_sha256: str) -> str:
    """Of the headers behind the last chunk."""
    return _sign(key, f"{ALGORITHM}-TRAILER", claim, before, trailer_sha256)


def _sign(key: bytes, algorithm: str, claim: Claim, *lines: str) -> str:
    text = "\n".join((algorithm, claim.timestamp, claim.scope, *lines))
    return hmac.digest(key, text.encode(), "sha256").hex()
