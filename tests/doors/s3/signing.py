"""A second opinion on signatures: AWS's own library signs, the door checks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import httpx
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from starlette.testclient import TestClient

UNSIGNED = "UNSIGNED-PAYLOAD"
REGION = "eu-central-1"


class S3:
    """Sends signed requests to the application. ``s3("PUT", "/bucket/key", data=b"…")``."""

    def __init__(self, client: TestClient, key_id: str, secret: str, time: Any = None) -> None:
        self.client = client
        self.key_id = key_id
        self.secret = secret
        self.time = time

    def sign(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], data: bytes
    ) -> tuple[str, dict[str, str]]:
        """The URL and all headers of a request."""
        url = (
            str(self.client.base_url)
            + quote(path, safe="/-_.~%")
            + ("?" + urlencode(query, quote_via=quote) if query else "")
        )
        request = AWSRequest(method=method, url=url, headers=headers, data=data)
        auth = Auth(Credentials(self.key_id, self.secret), "s3", REGION)
        auth.payload_hash = headers.get("x-amz-content-sha256", hashlib.sha256(data).hexdigest())
        auth.add_auth(request)
        return url, dict(request.headers.items())

    def __call__(
        self,
        method: str,
        path: str,
        *,
        data: bytes = b"",
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        url, signed = self.sign(method, path, query or {}, headers or {}, data)
        return self.client.request(method, url, content=data, headers=signed)

    def presign(self, method: str, path: str, expires: int = 60) -> str:
        url = str(self.client.base_url) + quote(path)
        request = AWSRequest(method=method, url=url)
        S3SigV4QueryAuth(Credentials(self.key_id, self.secret), "s3", REGION, expires=expires).add_auth(
            request
        )
        assert request.url is not None
        return request.url


class Auth(S3SigV4Auth):
    """botocore's, with the payload's hash that the test gives."""

    payload_hash = ""

    def payload(self, request: AWSRequest) -> str:
        return self.payload_hash


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code."""
    return response.status_code, ElementTree.fromstring(response.content).findtext("Code") or ""


def texts(response: httpx.Response, path: str) -> list[str]:
    """The texts of all elements at a path, whatever their namespace."""
    root = ElementTree.fromstring(response.content)
    return [node.text or "" for node in root.findall("/".join(f"{{*}}{part}" for part in path.split("/")))]


def chunked(data: bytes, size: int, trailer: dict[str, str] | None = None) -> bytes:
    """``aws-chunked``, unsigned."""
    out = b"".join(
        b"%x\r\n%s\r\n" % (len(data[at : at + size]), data[at : at + size])
        for at in range(0, len(data), size)
    )
    lines = "".join(f"{name}:{value}\r\n" for name, value in (trailer or {}).items())
    return out + b"0\r\n" + lines.encode() + b"\r\n"


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def signed_chunks(
    data: bytes, size: int, secret: str, headers: dict[str, str], trailer: dict[str, str] | None = None
) -> bytes:
    """``aws-chunked`` with a signature per chunk, as the request's own headers begin it. Written from AWS's description."""
    authorization = headers["Authorization"]
    scope = authorization.partition("Credential=")[2].partition(",")[0].partition("/")[2]
    before = authorization.partition("Signature=")[2]
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    empty = hashlib.sha256().hexdigest()
    out = b""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    for piece in [*pieces, b""]:
        lines = [
            "AWS4-HMAC-SHA256-PAYLOAD",
            headers["X-Amz-Date"],
            scope,
            before,
            empty,
            hashlib.sha256(piece).hexdigest(),
        ]
        before = hmac.new(key, "\n".join(lines).encode(), "sha256").hexdigest()
        out += b"%x;chunk-signature=%s\r\n" % (len(piece), before.encode()) + (
            piece + b"\r\n" if piece else b""
        )
    if trailer is None:
        return out + b"\r\n"
    text = "".join(f"{name}:{value}\n" for name, value in trailer.items())
    lines = [
        "AWS4-HMAC-SHA256-TRAILER",
        headers["X-Amz-Date"],
        scope,
        before,
        hashlib.sha256(text.encode()).hexdigest(),
    ]
    signature = hmac.new(key, "\n".join(lines).encode(), "sha256").hexdigest()
    return out + text.replace("\n", "\r\n").encode() + f"x-amz-trailer-signature:{signature}\r\n\r\n".encode()


def timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
