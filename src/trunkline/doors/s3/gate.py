"""Who may come in: a good signature by a key whose token may do what is asked. Nobody else, for nothing."""

from __future__ import annotations

import hmac
import re

from trunkline.access.model import Scope
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.payload import STREAMED, STREAMED_TRAILER, STREAMED_UNSIGNED, UNSIGNED, Signing
from trunkline.doors.s3.signature import (
    Claim,
    canonical_paths,
    canonical_request,
    claim_of_header,
    claim_of_query,
    sign_request,
    signing_key,
)
from trunkline.errors import UnauthenticatedError

SKEW_SECONDS_MAX = 15 * 60
HOW = "'trunkline get s3credentials' prints the keys"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STREAMS = (UNSIGNED, STREAMED, STREAMED_TRAILER, STREAMED_UNSIGNED)


def admit(call: Call) -> None:
    """Check the signature and remember whose it is.

    :raises S3Error: ``AccessDenied``, ``InvalidAccessKeyId``, ``SignatureDoesNotMatch``, ``RequestTimeTooSkewed`` …
    """
    is_presigned = "X-Amz-Signature" in call.query or "X-Amz-Algorithm" in call.query
    authorization = call.headers.get("authorization")
    if authorization is not None:
        if is_presigned:
            raise S3Error("InvalidArgument", "a request is signed in its headers or in its URL, not in both")
        claim = claim_of_header(authorization, call.headers.get("x-amz-date", ""))
    elif is_presigned:
        claim = claim_of_query(call.query)
    elif "AWSAccessKeyId" in call.query:
        raise S3Error(
            "InvalidRequest",
            "the URL is signed with Signature Version 2: set AWS_DEFAULT_REGION=local, or ask for s3v4",
        )
    else:
        raise S3Error("AccessDenied", f"the request is not signed: {HOW}", 403)
    _check_time(claim, call.services.clock.now())
    payload = _payload_of(call, claim)
    try:
        call.identity, pair = call.services.access.check_key(claim.key_id)
    except UnauthenticatedError as error:
        raise S3Error("InvalidAccessKeyId", f"the access key is not known (any more): {HOW}", 403) from error
    key = signing_key(pair.secret, claim)
    _check_covered(call, claim)
    right = [_signature(call, claim, key, payload, path) for path in canonical_paths(call.raw_path)]
    if not any(hmac.compare_digest(one, claim.signature) for one in right):
        raise S3Error("SignatureDoesNotMatch", f"the signature is not what it should be: {HOW}", 403)
    call.signing = Signing(claim=claim, key=key, payload=payload)


def narrow(call: Call) -> None:
    """From now on only what a job may see is there.

    :raises S3Error: ``AccessDenied``, for whoever is no job.
    """
    assert call.identity is not None, "admitted before"
    if call.identity.scope is not Scope.JOB:
        raise S3Error("AccessDenied", "this endpoint is for jobs: use the S3 door", 403)
    call.job_buckets = call.services.pipelines.s3_buckets(call.identity.subject)


def check_scope(call: Call, *, is_read: bool) -> None:
    """:raises S3Error: ``AccessDenied``."""
    assert call.identity is not None, "admitted before"
    if call.job_buckets is not None:
        if not is_read and (not call.bucket.owner or (not call.key and call.method != "POST")):
            raise S3Error("AccessDenied", "a job may only write objects, and only into its bucket 'out'", 403)
        return
    allowed = (Scope.ADMIN, Scope.JOB) if is_read else (Scope.ADMIN,)
    if call.identity.scope not in allowed:
        raise S3Error("AccessDenied", f"a key of scope '{call.identity.scope}' may not do this", 403)


def _check_time(claim: Claim, now: float) -> None:
    if claim.expires_seconds is not None:
        if claim.at - SKEW_SECONDS_MAX > now:
            raise S3Error("AccessDenied", "the URL is not valid yet", 403)
        if claim.at + claim.expires_seconds < now:
            raise S3Error("AccessDenied", "the URL has expired", 403)
    elif abs(claim.at - now) > SKEW_SECONDS_MAX:
        raise S3Error(
            "RequestTimeTooSkewed",
            "the request's time differs from the server's by more than 15 minutes: set the clock right",
            403,
            RequestTime=claim.timestamp,
            MaxAllowedSkewMilliseconds=str(SKEW_SECONDS_MAX * 1000),
        )


def _payload_of(call: Call, claim: Claim) -> str:
    given = call.headers.get("x-amz-content-sha256")
    if claim.expires_seconds is not None:
        given = call.query.get("X-Amz-Content-Sha256", given or UNSIGNED)
    if given is None:
        raise S3Error("MissingSecurityHeader", "the header x-amz-content-sha256 is missing")
    if given not in _STREAMS and not _SHA256.fullmatch(given):
        raise S3Error("InvalidArgument", "x-amz-content-sha256 is neither a SHA-256 nor a word that is known")
    return given


def _check_covered(call: Call, claim: Claim) -> None:
    for name in call.headers:
        if name.startswith("x-amz-") and name not in claim.signed_headers:
            raise S3Error("AccessDenied", f"the header {name} is not covered by the signature", 403)


def _signature(call: Call, claim: Claim, key: bytes, payload: str, path: bytes) -> str:
    query = [pair for pair in call.pairs if pair[0] != "X-Amz-Signature"]
    canonical = canonical_request(call.method, path, query, call.raw_headers, claim.signed_headers, payload)
    return sign_request(key, claim, canonical)
