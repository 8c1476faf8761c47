"""Small calls over HTTP with the control server, many over one connection; bodies of files go through ``transfer``."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
from collections.abc import Iterator
from typing import Any

from trunkline.sdk.endpoint import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    CLASS_OF_STATUS,
    Query,
    encode_query,
    path_of,
    value_of,
)
from trunkline.sdk.exchange import READ_SECONDS, AnsweredEarlyError, Download, Exchange
from trunkline.sdk.transfer import Body, Transfers

__all__ = [
    "BACKOFF_SECONDS_MAX", "BACKOFF_SECONDS_MIN", "CLASS_OF_STATUS", "Body", "Download", "Query", "Transport",
    "encode_query", "path_of",
]  # fmt: skip


CONNECTIONS_KEPT_MAX = 8


class Transport(Transfers):
    """Sends requests and raises what the server says. Safe to share between threads."""

    def __init__(self, url: str | None = None, token: str | None = None, retry_seconds: float = 0) -> None:
        self._kept: list[tuple[str, int, Exchange]] = []
        """Connections to use again, with where they lead to and the process that made them: a fork of it has the same ones."""
        super().__init__(url, token, retry_seconds)

    def close(self) -> None:
        """Close idle connections."""
        with contextlib.suppress(IndexError):
            while True:
                self._kept.pop()[2].close()

    def __del__(self) -> None:
        self.close()

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
        return value_of(data)

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
        body = b"" if json is None else jsonlib.dumps(json).encode()
        headers = {} if json is None else {"content-type": "application/json"}
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
        self, method: str, target: str, body: bytes, headers: dict[str, str], read_seconds: float
    ) -> bytes:
        url, token = self.url, self.token
        exchange, is_asked = self._connected(url, read_seconds), False
        try:
            exchange.ask(method, target, token, {**self._gathering(), **headers}, len(body), last=False)
            with contextlib.suppress(AnsweredEarlyError):  # the answer says why
                exchange.write(body)
                is_asked = True
            exchange.answer()
            return exchange.read_all()
        finally:
            if is_asked and exchange.is_over and len(self._kept) < CONNECTIONS_KEPT_MAX:
                self._kept.append((url, os.getpid(), exchange))
            else:
                exchange.close()

    def _connected(self, url: str, read_seconds: float) -> Exchange:
        while True:
            try:
                there, process, exchange = self._kept.pop()
            except IndexError:
                return Exchange(url, read_seconds)
            if (there, process) == (url, os.getpid()) and exchange.again(read_seconds):
                return exchange
            exchange.close()
