"""Which URLs the server may fetch: every way to write an internal address, and the settings that allow one."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from trunkline.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from trunkline.sources.guard import Rules, check_url, shown_url

PUBLIC = "93.184.215.14"


def says(*addresses: str) -> Any:
    def resolve(host: str, port: int) -> Sequence[str]:
        if not addresses:
            raise OSError("no such host")
        return addresses

    return resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.5", "172.16.0.1", "192.168.1.1", "169.254.169.254", "169.254.170.23",
        "100.64.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1",
        "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.5",
        "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
        "2001:db8::1", "64:ff9b:1::1",
    ],
)  # fmt: skip
def test_internal_addresses_are_refused_however_they_are_named(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    for url, resolve in (
        (f"http://{literal}/x", says()),
        ("http://harmless.example/x", says(address)),
        ("https://harmless.example:8443/x", says(PUBLIC, address)),
    ):
        with pytest.raises(PermissionDeniedError) as raised:
            check_url(url, Rules(), resolve)
        assert raised.value.kind == "address_refused"
        assert ip_address(raised.value.details["address"]) == ip_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0x7f.1/",
        "http://10.0x1/", "http://1.2.3/", "http://127.0.0.1./", "http://[::1%25eth0]/", "http://[::1]x/",
        "http://a:b@example.org/", "http://user@example.org/", "http:///x", "http://", "ftp://example.org/x",
        "file:///etc/passwd", "gopher://example.org/", "//example.org/x", "http://example.org:99999/", "http://example.org:x/",
        "http://ex ample.org/", "http://example.org/a b", "http://example.org/\r\nx: y", "http://example.org\\@evil/",
        "http://bücher.example/", "javascript:alert(1)", "http://example.org/" + "a" * 9000,
    ],
)  # fmt: skip
def test_urls_that_are_not_plain_are_refused(url: str) -> None:
    with pytest.raises((InvalidInputError, PermissionDeniedError)) as raised:
        check_url(url, Rules(private=True), says("127.0.0.1"))
    assert "\n" not in raised.value.message and len(raised.value.message) < 500


def test_the_address_that_was_judged_is_the_one_to_connect_to() -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    target = check_url("https://example.org/a?b=c", Rules(), rebinding)
    assert (target.address, target.host, target.port, target.request) == (
        PUBLIC,
        "example.org",
        443,
        "/a?b=c",
    )
    assert asked == ["example.org"]
    assert check_url("http://[2606:2800:220:1::1]:81/", Rules()).authority == "[2606:2800:220:1::1]:81"


@pytest.mark.parametrize(
    ("rules", "address", "allowed"),
    [
        (Rules(private=True), "127.0.0.1", True),
        (Rules(private=True), "10.1.2.3", True),
        (Rules(private=True), "169.254.169.254", False),
        (Rules(private=True), "::ffff:169.254.169.254", False),
        (Rules(private=True), "fe80::1", False),
        (Rules(private=True), "0.0.0.0", False),
        (Rules(hosts=("data.example",)), "10.1.2.3", True),
        (Rules(hosts=("data.example:80",)), "10.1.2.3", True),
        (Rules(hosts=("data.example:8080",)), "10.1.2.3", False),
        (Rules(hosts=("other.example",)), "10.1.2.3", False),
        (Rules(hosts=("10.0.0.0/8",)), "10.1.2.3", True),
        (Rules(hosts=("10.0.0.0/8",)), "::ffff:10.1.2.3", True),
        (Rules(hosts=("10.0.0.0/8",)), "192.168.1.1", False),
        (Rules(hosts=("169.254.169.254",)), "169.254.169.254", True),
    ],
)
def test_settings_allow_what_they_name(rules: Rules, address: str, allowed: bool) -> None:
    if allowed:
        target = check_url("http://data.example/x", rules, says(address))
        assert ip_address(target.address) == ip_address(address)
        return
    with pytest.raises(PermissionDeniedError) as raised:
        check_url("http://data.example/x", rules, says(address))
    assert raised.value.kind == "address_refused"


def test_the_refusal_says_which_address_and_which_setting() -> None:
    with pytest.raises(
        PermissionDeniedError, match=r"data.example is 10\.1\.2\.3.*fetch_private.*fetch_hosts"
    ):
        check_url("http://data.example/x?secret=1", Rules(), says("10.1.2.3"))
    with pytest.raises(PermissionDeniedError, match=r"169\.254\.169\.254.*fetch_hosts"):
        check_url("http://169.254.169.254/latest/meta-data/", Rules())


def test_a_name_that_stands_for_nothing() -> None:
    with pytest.raises(NotFoundError, match=r"no host 'nowhere\.example'"):
        check_url("http://nowhere.example/", Rules(), says())


def test_what_may_be_secret_is_never_shown() -> None:
    shown = shown_url("https://me:pass@example.org/a?X-Amz-Signature=abc#frag")
    assert shown == "https://example.org/a"
    with pytest.raises(InvalidInputError) as raised:
        check_url("https://me:hunter2@example.org/a?token=abc", Rules())
    assert "hunter2" not in raised.value.message and "abc" not in raised.value.message
