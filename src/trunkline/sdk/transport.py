"""Small calls over HTTP with the control server, through one connection pool; bodies of files go through ``transfer``."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from trunkline.errors import TrunklineError, UnavailableError
from trunkline.sdk.endpoint import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    CLASS_OF_STATUS,
    ERROR_HEADER,
    Query,
    encode_query,
    error_of,
    path_of,
    unreachable,
)
from trunkline.sdk.exchange import CONNECT_SECONDS, READ_SECONDS, Download
from trunkline.sdk.transfer import Body, Transfers

__all__ = [
    "BACKOFF_SECONDS_MAX", "BACKOFF_SECONDS_MIN", "CLASS_OF_STATUS", "Body", "Download", "Query", "Transport",
    "encode_query", "path_of",
]  # fmt: skip


class Transport(Transfers):
    """Sends requests and raises what the server says. Safe to share between threads."""

    def __init__(self, url: str | None = None, token: str | None = None, retry_seconds: float = 0) -> None:
        super().__init__(url, token, retry_seconds)
        self._pool = urllib3.PoolManager(maxsize=8, retries=False)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        query: Query | None = None,
        *,
        read_seconds: float = READ_SECONDS,
    ) -> Any:
        """Send JSON, get JSON (None where the answer is empty). ``read_seconds``: how long the answer may take.

        >>> client.call("GET", "/v1/repos")["items"]
        """
        data = self.call_raw(method, path, json, query, read_seconds=read_seconds)
        return jsonlib.loads(data) if data else None

    def call_raw(
        self,
        method: str,
        path: str,
        json: Any = None,
        query: Query | None = None,
        *,
        read_seconds: float = READ_SECONDS,
    ) -> bytes:
        """The same, with the answer as it came.

        >>> Page[Repo].model_validate_json(client.call_raw("GET", "/v1/repos"))
        """
        body = None if json is None else jsonlib.dumps(json).encode()
        headers = {"content-type": "application/json"} if body is not None else {}
        return self._patiently(
            lambda: self._call_once(method, path + encode_query(query), body, headers, read_seconds)
        )

    def lines(self, path: str, *, query: Query | None = None) -> Iterator[Any]:
        """The values of a newline-delimited JSON answer, as they come."""
        with self.download(path, query=query) as stream:
            for line in stream.text_lines():
                if line.strip():
                    yield jsonlib.loads(line)

    def _call_once(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str], read_seconds: float
    ) -> bytes:
        try:
            response = self._pool.request(
                method, self.url + target, body=body, redirect=False, preload_content=False,
                headers={"authorization": f"Bearer {self.token}", **self._gathering(), **headers},
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )  # fmt: skip
        except HTTPError as error:
            raise unreachable(self.url, timed_out="timed out" in str(error)) from error
        if response.status >= 300:
            raise _error_of(response)
        try:
            data = response.read()
        except HTTPError as error:
            raise UnavailableError(
                f"the connection broke while the answer was read: {type(error).__name__}", kind="unreachable"
            ) from error
        response.release_conn()
        return data


def _error_of(response: urllib3.BaseHTTPResponse) -> TrunklineError:
    """The very error that the server raised."""
    try:
        data = response.read()
    except HTTPError:
        data = b""
    finally:
        response.release_conn()
    return error_of(response.status, response.reason, response.headers.get(ERROR_HEADER), data)
