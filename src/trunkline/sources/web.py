"""Fetching a URL, with every address on the way checked, and bounds on size and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, ReadTimeoutError, SSLError

from trunkline.errors import InvalidInputError, LimitError, NotFoundError, TrunklineError, UnavailableError
from trunkline.sources.guard import Resolver, Rules, Target, check_url, shown_url, system_resolver

REDIRECTS_MAX = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS_MAX = 30.0
PART_BYTES = 256 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches URLs. ``resolve`` turns a name into addresses."""

    rules: Rules = field(default_factory=Rules)
    bytes_max: int = 100 * 2**30
    seconds_max: float = 6 * 3600.0
    resolve: Resolver = system_resolver
    silence_seconds_max: float = SILENCE_SECONDS_MAX

    @contextmanager
    def open(self, url: str) -> Iterator[Fetched]:
        """A URL's content, redirects followed.

        :raises InvalidInputError: ``bad_url``. :raises PermissionDeniedError: ``address_refused``. :raises NotFoundError:
            ``no_url`` or ``no_host``. :raises UnavailableError: ``fetch_failed``. :raises LimitError: ``fetch_too_large`` or
            ``fetch_too_slow``.
        """
        deadline = time.monotonic() + self.seconds_max
        target = check_url(url, self.rules, self.resolve)
        for _ in range(REDIRECTS_MAX + 1):
            with self._request(target) as response:
                if response.status not in REDIRECTS:
                    _check_status(response.status, target.url)
                    yield Fetched(response=response, url=target.url, fetcher=self, deadline=deadline)
                    return
                location = response.headers.get("location")
            if not location:
                raise UnavailableError(
                    f"{shown_url(target.url)} redirects without saying where to", kind="fetch_failed"
                )
            target = check_url(urljoin(target.url, location), self.rules, self.resolve)
        raise InvalidInputError(
            f"{shown_url(url)} redirects more than {REDIRECTS_MAX} times", kind="too_many_redirects"
        )

    @contextmanager
    def _request(self, target: Target) -> Iterator[urllib3.BaseHTTPResponse]:
        """To the address that was checked; the name goes into the headers and the certificate check only."""
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=self.silence_seconds_max)
        pool: urllib3.HTTPConnectionPool
        if target.scheme == "https":
            pool = urllib3.HTTPSConnectionPool(
                target.address, target.port, timeout=timeout, retries=False, maxsize=1,
                server_hostname=target.host, assert_hostname=target.host,
            )  # fmt: skip
        else:
            pool = urllib3.HTTPConnectionPool(
                target.address, target.port, timeout=timeout, retries=False, maxsize=1
            )
        headers = {"host": target.authority, "accept-encoding": "identity", "user-agent": "trunkline"}
        response: urllib3.BaseHTTPResponse | None = None
        try:
            with _translated(target.url):
                response = pool.urlopen(
                    "GET", target.request, headers=headers, redirect=False, preload_content=False,
                    decode_content=False, assert_same_host=False,
                )  # fmt: skip
            yield response
        finally:
            if response is not None:
                response.close()
            pool.close()


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """An answer whose body is still to be read."""

    response: urllib3.BaseHTTPResponse
    url: str
    fetcher: Fetcher
    deadline: float

    @property
    def modified_at(self) -> float | None:
        """When the other server says that it was changed."""
        with suppress(TypeError, ValueError, OverflowError, OSError):
            return parsedate_to_datetime(self.response.headers.get("last-modified", "")).timestamp()
        return None

    def parts(self) -> Iterator[bytes]:
        """The body, as it comes, within the bounds of size and time."""
        size, shown, bytes_max = 0, shown_url(self.url), self.fetcher.bytes_max
        declared = self.response.headers.get("content-length") or ""
        if declared.isdecimal() and len(declared) < 30 and int(declared) > bytes_max:
            raise _too_large(shown, bytes_max)
        while True:
            with _translated(self.url):
                part = self.response.read1(PART_BYTES, decode_content=False)
            if not part:
                return
            size += len(part)
            if size > bytes_max:
                raise _too_large(shown, bytes_max)
            if time.monotonic() > self.deadline:
                raise LimitError(
                    f"{shown} took longer than {self.fetcher.seconds_max:g} seconds (setting 'fetch_seconds_max')",
                    kind="fetch_too_slow",
                )
            yield part


def _check_status(status: int, url: str) -> None:
    if status == 200:
        return
    if status in (404, 410):
        raise NotFoundError(f"{shown_url(url)} does not exist (status {status})", kind="no_url")
    if status in (401, 403):
        raise InvalidInputError(
            f"{shown_url(url)} is not public (status {status}): fetch it yourself and pipe it in",
            kind="url_not_public",
        )
    raise UnavailableError(f"{shown_url(url)} answered with status {status}", kind="fetch_failed")


def _too_large(shown: str, bytes_max: int) -> LimitError:
    return LimitError(
        f"{shown} is larger than {bytes_max} bytes (setting 'fetch_bytes_max')", kind="fetch_too_large"
    )


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """What the HTTP library says, as one line of ours."""
    try:
        yield
    except TrunklineError:
        raise
    except (HTTPError, OSError) as error:
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        if isinstance(cause, SSLError):
            why = "its certificate could not be verified"
        elif isinstance(cause, ConnectTimeoutError | ReadTimeoutError):
            why = "it does not answer in time"
        else:
            why = f"the connection broke ({type(cause).__name__})"
        raise UnavailableError(f"{shown_url(url)} cannot be fetched: {why}", kind="fetch_failed") from error
