"""Fetching from a real server that misbehaves in every way."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler

import pytest

from tests.sources.conftest import WebServer
from trunkline.errors import (
    InvalidInputError,
    LimitError,
    PermissionDeniedError,
    TrunklineError,
    UnavailableError,
)
from trunkline.sources.guard import Rules
from trunkline.sources.web import Fetcher

INTERNAL = "http://169.254.169.254/latest/meta-data/"


def fetcher(web: WebServer, **more: object) -> Fetcher:
    """One that may fetch from that server, under its name, and from nothing else."""
    names = {"data.example": "127.0.0.1", "inside.example": "10.0.0.7", "meta.example": "169.254.169.254"}
    return Fetcher(
        rules=Rules(hosts=(f"127.0.0.1:{web.port}", f"data.example:{web.port}")),
        resolve=lambda host, port: [names[host]], **more,  # type: ignore[arg-type]
    )  # fmt: skip


def get(one: Fetcher, url: str) -> bytes:
    with one.open(url) as found:
        return b"".join(found.parts())


def test_content_and_time_come_as_they_are(web: WebServer) -> None:
    data = bytes(range(256)) * 5000
    url = web.serve("/a.bin", data, Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT", Content_Encoding="gzip")
    with fetcher(web).open(url + "?x=1") as found:
        assert found.modified_at == 1445412480.0
        assert b"".join(found.parts()) == data, "what is stored is what was sent, whatever it says it is"
    path, headers = web.asked[0]
    assert path == "/a.bin?x=1" and headers["host"] == f"127.0.0.1:{web.port}"
    assert not {"authorization", "cookie"} & set(headers)


def test_the_name_goes_into_the_header_and_the_checked_address_is_used(web: WebServer) -> None:
    web.serve("/a", b"a")
    assert get(fetcher(web), f"http://data.example:{web.port}/a") == b"a"
    assert web.asked[0][1]["host"] == f"data.example:{web.port}"


def test_redirects_are_followed_and_each_is_checked_again(web: WebServer) -> None:
    web.serve("/end", b"end")
    web.redirect("/one", "/end", 307)
    assert get(fetcher(web), web.url + "/one") == b"end"
    for location in (INTERNAL, "http://inside.example/", "http://meta.example/", "http://127.0.0.1:1/"):
        web.redirect("/out", location)
        with pytest.raises(PermissionDeniedError):
            get(fetcher(web), web.url + "/out")
    for location in (
        "http://0x7f000001/",
        "file:///etc/passwd",
        "ftp://data.example/x",
        "http://u:p@data.example/",
        "s3://bucket/key",
    ):
        web.redirect("/out", location)
        with pytest.raises(InvalidInputError):
            get(fetcher(web), web.url + "/out")


def test_a_redirect_to_an_internal_address_names_it(web: WebServer) -> None:
    url = web.redirect("/out", INTERNAL)
    with pytest.raises(PermissionDeniedError, match=r"169\.254\.169\.254.*fetch_hosts"):
        get(fetcher(web), url)


def test_redirects_end(web: WebServer) -> None:
    with pytest.raises(InvalidInputError, match="redirects more than 5 times"):
        get(fetcher(web), web.redirect("/loop", "/loop"))
    assert len(web.asked) == 6
    with pytest.raises(UnavailableError, match="without saying where"):
        get(fetcher(web), web.redirect("/nowhere", None))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "no_url"), (410, "no_url"), (403, "url_not_public"), (500, "fetch_failed"), (204, "fetch_failed")],
)
def test_other_statuses_are_errors(web: WebServer, status: int, kind: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", "0")
        handler.end_headers()

    web.answers["/x"] = answer
    with pytest.raises(TrunklineError) as raised:
        get(fetcher(web), web.url + "/x?token=abc")
    assert raised.value.kind == kind and "abc" not in raised.value.message


def test_sizes_are_bounded_whether_declared_or_not(web: WebServer) -> None:
    url = web.serve("/big", b"x" * 100_001)
    with pytest.raises(LimitError, match="fetch_bytes_max"):
        get(fetcher(web, bytes_max=100_000), url)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            handler.close_connection = True

    web.answers["/endless"] = endless
    with pytest.raises(LimitError, match="fetch_bytes_max"):
        get(fetcher(web, bytes_max=1_000_000), web.url + "/endless")


def test_a_server_that_hangs_or_trickles_does_not_hold_us(web: WebServer) -> None:
    release = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        release.wait(20)
        handler.close_connection = True

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        try:
            while not release.wait(0.02):
                handler.wfile.write(b"x")
        except OSError:
            pass
        handler.close_connection = True

    web.answers |= {"/hang": hang, "/trickle": trickle}
    try:
        with pytest.raises(UnavailableError, match="does not answer in time"):
            get(fetcher(web, silence_seconds_max=0.1), web.url + "/hang")
        with pytest.raises(LimitError, match="fetch_seconds_max"):
            get(fetcher(web, silence_seconds_max=5.0, seconds_max=0.2), web.url + "/trickle")
    finally:
        release.set()


def test_a_body_that_breaks_off_is_an_error(web: WebServer) -> None:
    def short(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.close_connection = True

    web.answers["/short"] = short
    with pytest.raises(UnavailableError, match="the connection broke"):
        get(fetcher(web), web.url + "/short")


def test_nobody_there(web: WebServer) -> None:
    url = web.url
    web.close()
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        get(fetcher(web), url + "/a")
