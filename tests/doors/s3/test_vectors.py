"""AWS's own published examples of Signature Version 4 for S3."""

from __future__ import annotations

import hashlib

import pytest

from trunkline.doors.s3.signature import (
    Claim,
    canonical_paths,
    canonical_request,
    claim_of_header,
    claim_of_query,
    parse_query,
    sign_chunk,
    sign_request,
    signing_key,
)

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
DATE = "20130524T000000Z"
HOST = (b"host", b"examplebucket.s3.amazonaws.com")
EMPTY = hashlib.sha256(b"").hexdigest()


def _claim(headers: str, signature: str) -> Claim:
    text = (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={headers},Signature={signature}"
    )
    return claim_of_header(text, DATE)


def _signature(
    claim: Claim, method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], payload: str
) -> str:
    canonical = canonical_request(
        method, canonical_paths(path)[0], parse_query(query), headers, claim.signed_headers, payload
    )
    return sign_request(signing_key(SECRET, claim), claim, canonical)


CASES = {
    "get object": (
        "GET", b"/test.txt", b"", "host;range;x-amz-content-sha256;x-amz-date", [(b"range", b"bytes=0-9")], EMPTY,
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ),
    "put object": (
        "PUT", b"/test%24file.text", b"", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        [(b"date", b"Fri, 24 May 2013 00:00:00 GMT"), (b"x-amz-storage-class", b"REDUCED_REDUNDANCY")],
        hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    "get lifecycle": (
        "GET", b"/", b"lifecycle", "host;x-amz-content-sha256;x-amz-date", [], EMPTY,
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ),
    "list objects": (
        "GET", b"/", b"max-keys=2&prefix=J", "host;x-amz-content-sha256;x-amz-date", [], EMPTY,
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_published_requests(case: str) -> None:
    method, path, query, signed, more, payload, expected = CASES[case]
    headers = [HOST, *more, (b"x-amz-content-sha256", payload.encode()), (b"x-amz-date", DATE.encode())]
    assert _signature(_claim(signed, expected), method, path, query, headers, payload) == expected


def test_published_presigned_url() -> None:
    raw = (
        b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        b"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    )
    expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    claim = claim_of_query(dict(parse_query(raw + b"&X-Amz-Signature=" + expected.encode())))
    assert claim.expires_seconds == 86400
    assert _signature(claim, "GET", b"/test.txt", raw, [HOST], "UNSIGNED-PAYLOAD") == expected


def test_published_chunks() -> None:
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    signed = (
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;"
        "x-amz-storage-class"
    )
    payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    headers = [
        (b"host", b"s3.amazonaws.com"), (b"x-amz-date", DATE.encode()), (b"x-amz-storage-class", b"REDUCED_REDUNDANCY"),
        (b"x-amz-content-sha256", payload.encode()), (b"content-encoding", b"aws-chunked"),
        (b"x-amz-decoded-content-length", b"66560"), (b"content-length", b"66824"),
    ]  # fmt: skip
    claim = _claim(signed, seed)
    assert _signature(claim, "PUT", b"/examplebucket/chunkObject.txt", b"", headers, payload) == seed
    key = signing_key(SECRET, claim)
    expected = [
        (b"a" * 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (b"a" * 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ]
    before = seed
    for data, signature in expected:
        before = sign_chunk(key, claim, before, hashlib.sha256(data).hexdigest())
        assert before == signature
