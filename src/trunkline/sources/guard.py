"""Which addresses the server may fetch from. A URL that somebody gives it must not become a way into the network it stands in.

A name is resolved once, every address that it stands for is judged, and the connection goes to the very address that was
judged: a second look-up could answer differently.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

from trunkline.errors import InvalidInputError, NotFoundError, PermissionDeniedError

PORTS = {"http": 80, "https": 443}
URL_CHARACTERS_MAX = 8192
HOW_TO_ALLOW = "in trunkline.toml of the server's data directory"

Resolver = Callable[[str, int], Sequence[str]]
"""``(host, port) -> addresses``; raises OSError where there are none."""
Ip = IPv4Address | IPv6Address

_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|\d+)\.?")
_CONTROL = re.compile(r"[\x00-\x20\x7f-\x9f]")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d*)?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may be fetched beyond the public Internet."""

    private: bool = False
    """Loopback and private networks, too; never link-local addresses, where clouds keep credentials."""
    hosts: tuple[str, ...] = ()
    """Names (with ``:port``, if only that one), addresses or networks, with which anything goes."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL that may be fetched, and the address to connect to."""

    url: str
    scheme: str
    host: str
    port: int
    address: str
    request: str
    """Path and query, as they are sent."""
    authority: str
    """What the header ``Host`` says."""


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a name, as the machine's own resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def shown_url(url: str) -> str:
    """A URL for messages and logs: without what may be a credential (user, password, query)."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        text = SplitResult(parts.scheme, host, parts.path, "", "").geturl()
    except ValueError:
        return "the URL"
    return ascii(text)[1:-1] if not text.isprintable() else text


def check_url(url: str, rules: Rules, resolve: Resolver = system_resolver) -> Target:
    """What to connect to.

    :raises InvalidInputError: ``bad_url``. :raises NotFoundError: ``no_host``.
    :raises PermissionDeniedError: ``address_refused``, naming the address and the setting that would allow it.
    """
    parts, host, port = _taken_apart(url)
    shown = shown_url(url)
    literal = _literal(host)
    if literal is None and _NUMBER.fullmatch(host.rpartition(".")[2] or host.rstrip(".").rpartition(".")[2]):
        raise _bad_url(shown, f"{host!r} is a number in disguise: write an address as 192.0.2.1, or a name")
    addresses = [literal] if literal is not None else _resolved(host, port, resolve, shown)
    for address in addresses:
        why = _refusal(address, host, port, rules)
        if why is not None:
            raise _refused(shown, host, address, why)
    return Target(
        url=url,
        scheme=parts.scheme,
        host=host,
        port=port,
        address=str(addresses[0]),
        request=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        authority=(f"[{host}]" if ":" in host else host)
        + ("" if port == PORTS[parts.scheme] else f":{port}"),
    )


def _taken_apart(url: str) -> tuple[SplitResult, str, int]:
    shown = shown_url(url)
    if len(url) > URL_CHARACTERS_MAX:
        raise _bad_url(shown[:80] + "…", f"it has more than {URL_CHARACTERS_MAX} characters")
    if _CONTROL.search(url) or not url.isascii():
        raise _bad_url(shown, "spaces, control and other than ASCII characters are written as %XX in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_url(shown, "its host or port is malformed") from error
    if parts.scheme not in PORTS:
        raise _bad_url(shown, "only http and https are fetched (and s3 and gs, as folders)")
    if "@" in parts.netloc:
        raise _bad_url(
            shown, "a name or password in it would end up in logs: fetch it yourself and pipe it in"
        )
    if not host or not _AUTHORITY.fullmatch(parts.netloc):
        raise _bad_url(shown, "it names no host")
    return parts, host, PORTS[parts.scheme] if port is None else port


def _literal(host: str) -> Ip | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _resolved(host: str, port: int, resolve: Resolver, shown: str) -> list[Ip]:
    try:
        found = [ipaddress.ip_address(address.partition("%")[0]) for address in resolve(host, port)]
    except (OSError, UnicodeError, ValueError) as error:
        raise NotFoundError(
            f"{shown} cannot be fetched: there is no host {host!r}", kind="no_host"
        ) from error
    if not found:
        raise NotFoundError(f"{shown} cannot be fetched: there is no host {host!r}", kind="no_host")
    return found


def _refusal(address: Ip, host: str, port: int, rules: Rules) -> str | None:
    """Why an address is not fetched from, or None if it may be."""
    if _is_listed(address, host, port, rules.hosts):
        return None
    inner = embedded(address)
    if inner.is_unspecified or inner.is_multicast:
        return "which is no single host"
    if inner.is_link_local or address.is_link_local:
        return f"a link-local address, where clouds keep credentials: add it to the setting 'fetch_hosts' {HOW_TO_ALLOW}"
    judged = {inner} if _wraps(address) else {inner, address}
    if rules.private or all(one.is_global and not one.is_reserved for one in judged):
        return None
    kind = "a loopback address" if inner.is_loopback else "an address of a private network"
    return f"{kind}: set 'fetch_private = true', or add the host to 'fetch_hosts', {HOW_TO_ALLOW} if that is meant"


def embedded(address: Ip) -> Ip:
    """The IPv4 address that an IPv6 one stands for (mapped, compatible, 6to4, NAT64, Teredo); else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    number = int(address)
    if address in _NAT64 or (number >> 32 == 0 and number > 1):
        return IPv4Address(number & 0xFFFFFFFF)
    return address


def _wraps(address: Ip) -> bool:
    """Whether such an IPv6 address is nothing but another way to write the IPv4 one in it."""
    return isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address in _NAT64)


def _is_listed(address: Ip, host: str, port: int, allowed: Sequence[str]) -> bool:
    names = {host.lower().rstrip("."), f"{host.lower().rstrip('.')}:{port}", f"[{host}]:{port}"}
    for one in allowed:
        if one.lower() in names:
            return True
        try:
            network = ipaddress.ip_network(one)
        except ValueError:
            continue
        if address in network or embedded(address) in network:
            return True
    return False


def _refused(shown: str, host: str, address: Ip, why: str) -> PermissionDeniedError:
    where = f"{host} is {address}" if host != str(address) else str(address)
    return PermissionDeniedError(
        f"{shown} is not fetched: {where}, {why}",
        kind="address_refused",
        details={"host": host, "address": str(address)},
    )


def _bad_url(shown: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"URL {shown} is not usable: {why}", kind="bad_url")
