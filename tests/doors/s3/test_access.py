"""Who gets in, and who does not."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.conftest import FakeClock
from tests.doors.s3.conftest import BASE_URL
from tests.doors.s3.signing import S3, error_of, texts, timestamp
from trunkline.access.keys import digest_prefix, key_id
from trunkline.access.model import Scope
from trunkline.doors.s3.app import create_app
from trunkline.services import Services, build
from trunkline.settings import Settings


def test_nobody_gets_in_unsigned(client: TestClient) -> None:
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        for path in ("/", "/images", "/images/a", "/images?list-type=2", "/nothing"):
            response = client.request(method, path)
            assert response.status_code == 403
            assert (
                response.content == b"" if method == "HEAD" else error_of(response) == (403, "AccessDenied")
            )


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("AWS AKID:sig", "InvalidRequest"), ("Bearer token", "InvalidRequest"), ("", "InvalidRequest"),
        ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=x", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/s3/aws4_request, SignedHeaders=, Signature=" + "0" * 64,
         "AuthorizationHeaderMalformed"),
    ],
)  # fmt: skip
def test_malformed_signatures(client: TestClient, authorization: str, code: str) -> None:
    headers = {
        "authorization": authorization,
        "x-amz-date": "20260101T000000Z",
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
    }
    response = client.get("/images", headers=headers)
    assert error_of(response) == (400, code)


def test_whatever_is_changed_is_noticed(s3: S3) -> None:
    url, signed = s3.sign(
        "PUT", "/images/a", {"x": "1"}, {"x-amz-meta-mtime": "5", "content-type": "text/plain"}, b"data"
    )
    good = s3.client.put(url, content=b"data", headers=signed)
    assert good.status_code == 200
    wrong = (403, "SignatureDoesNotMatch")
    assert error_of(s3.client.put(url.replace("/a", "/b"), content=b"data", headers=signed)) == wrong
    assert error_of(s3.client.put(url.replace("x=1", "x=2"), content=b"data", headers=signed)) == wrong
    assert error_of(s3.client.request("POST", url, content=b"data", headers=signed)) == wrong
    assert error_of(s3.client.put(url, content=b"data", headers={**signed, "host": "elsewhere"})) == wrong
    assert error_of(s3.client.put(url, content=b"data", headers={**signed, "x-amz-meta-mtime": "6"})) == wrong
    assert error_of(s3.client.put(url, content=b"data", headers={**signed, "x-amz-acl": "public-read"})) == (
        403,
        "AccessDenied",
    )
    body = s3.client.put(url, content=b"DATA", headers=signed)
    assert error_of(body) == (400, "XAmzContentSHA256Mismatch")
    assert s3("GET", "/images/a").content == b"data"
    stranger = S3(s3.client, s3.key_id, "x" * 40)
    assert error_of(stranger("GET", "/images")) == wrong
    unknown = S3(s3.client, "TL0123456789ABCDEF01", s3.secret)
    assert error_of(unknown("GET", "/images")) == (403, "InvalidAccessKeyId")
    for identifier in ("AKIAIOSFODNN7EXAMPLE", "TL", "TL%", "TL" + "_" * 18, "TL" + "g" * 18):
        assert digest_prefix(identifier) is None


def test_old_and_early_requests(tmp_path: Path) -> None:
    clock = FakeClock()
    clock.time = 1_800_000_000.0
    services = build(Settings(home=tmp_path), clock=clock)
    pair = services.access.key_pair(services.access.admin_token(tmp_path / "token"))
    client = TestClient(create_app(services, threading.Event()), base_url=BASE_URL)
    s3 = S3(client, pair.id, pair.secret)
    url, signed = s3.sign("GET", "/", {}, {}, b"")
    at = signed["X-Amz-Date"]  # the real time: now
    assert error_of(client.get(url, headers=signed)) == (403, "RequestTimeTooSkewed")
    presigned = s3.presign("GET", "/", expires=60)
    assert error_of(client.get(presigned))[1] == "AccessDenied"

    from datetime import UTC, datetime

    now = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    for shift, code in ((-901, 403), (-899, 200), (0, 200), (899, 200), (901, 403)):
        clock.time = now + shift
        assert client.get(url, headers=signed).status_code == code, shift
    for shift, code in ((0, 200), (59, 200), (65, 403), (-1000, 403)):
        clock.time = now + shift
        assert client.get(presigned).status_code == code, shift
    moved = presigned.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")
    clock.time = now
    assert error_of(client.get(moved)) == (403, "SignatureDoesNotMatch")
    for text in ("X-Amz-Expires=0", "X-Amz-Expires=604801", "X-Amz-Expires=-1", "X-Amz-Expires="):
        wrong = presigned.replace("X-Amz-Expires=60", text)
        assert error_of(client.get(wrong)) == (400, "AuthorizationQueryParametersError")
    assert timestamp(0) == "19700101T000000Z"
    services.db.close()


def test_presigned_put_and_get(s3: S3) -> None:
    assert s3.client.put(s3.presign("PUT", "/images/ä b"), content=b"1").status_code == 200
    url = s3.presign("GET", "/images/ä b")
    assert s3.client.get(url).content == b"1"
    assert error_of(s3.client.delete(url)) == (403, "SignatureDoesNotMatch")
    assert error_of(s3.client.get(url, headers={"authorization": "AWS4-HMAC-SHA256 x"})) == (
        400,
        "InvalidArgument",
    )


def test_a_key_may_what_its_token_may(s3: S3, services: Services) -> None:
    s3("PUT", "/images/a", data=b"1")
    token = services.access.issue(Scope.JOB, "job:default/x@1", None)
    pair = services.access.key_pair(token)
    job = S3(s3.client, pair.id, pair.secret)
    assert job("GET", "/images/a").content == b"1"
    assert texts(job("GET", "/images"), "Contents/Key") == ["a"]
    for method, path in (("PUT", "/images/b"), ("DELETE", "/images/a"), ("PUT", "/new")):
        assert error_of(job(method, path)) == (403, "AccessDenied")
    assert error_of(job("POST", "/images/k", query={"uploads": ""})) == (403, "AccessDenied")
    services.access.revoke("job:default/x@1")
    assert error_of(job("GET", "/images/a")) == (403, "InvalidAccessKeyId"), "a key ends with its token"
    for scope in (Scope.WORKER, Scope.CONSOLE, Scope.LINK):
        other = services.access.key_pair(services.access.issue(scope, "someone", None))
        assert error_of(S3(s3.client, other.id, other.secret)("GET", "/images/a")) == (403, "AccessDenied")


def test_secrets_are_derived_not_stored(s3: S3, services: Services, tmp_path: Path) -> None:
    token = services.access.admin_token(services.settings.token_file)
    pair = services.access.key_pair(token)
    assert len(pair.id) == 20 and len(pair.secret) == 40
    assert pair.secret not in repr(pair) and token not in pair.secret
    assert pair.id == key_id(digest_prefix(pair.id) or "")
    again = build(services.settings)
    again.access.admin_token(services.settings.token_file)
    assert again.access.key_pair(token) == pair, "the same after a restart"
    again.db.close()
    stored = (services.settings.home / "trunkline.db").read_bytes()
    assert pair.secret.encode() not in stored


def test_keys_never_reach_the_log(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        s3("PUT", "/images/a", data=b"very private content")
        s3.client.get(s3.presign("GET", "/images/a"))
        S3(s3.client, s3.key_id, "wrong")("GET", "/images")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("trunkline"))
    assert s3.secret not in ours and "Signature" not in ours and "private" not in ours
