"""A URL from a caller, parsed once; everything later uses the parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import NoReturn
from urllib.parse import quote, urlsplit

import idna

from tasks.errors import BlockedAddress

URL_MAX_CHARS = 4_096
HOST_MAX_CHARS = 253
DEFAULT_PORTS = {"http": 80, "https": 443}
# What parsers read differently: blanks, control characters, backslashes, lone surrogates.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ufeff\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[\d.]+")
_PATH_SAFE = "/:@!$&'()*+,;=-._~%?"  # the rest becomes percent-encoded UTF-8


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: scheme, ASCII host (no brackets), port, path with query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """Parse `url`; raises BlockedAddress with a reason if it must not be used."""
    if len(url) > URL_MAX_CHARS:
        _refuse(f"The URL is longer than {URL_MAX_CHARS:,} characters.")
    if _AMBIGUOUS.search(url):
        _refuse("The URL contains blanks, control characters or backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        _refuse("The URL cannot be parsed.")
    if parts.scheme not in DEFAULT_PORTS:
        _refuse("The URL does not begin with http:// or https://.")
    if "@" in parts.netloc:
        _refuse("The URL contains a user name or password.", remedy="Send them in a header.")
    path = quote(parts.path or "/", safe=_PATH_SAFE)
    query = quote(parts.query, safe=_PATH_SAFE)
    return Target(
        scheme=parts.scheme,
        host=_host(parts.hostname or "", is_bracketed="[" in parts.netloc),
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=f"{path}?{query}" if query else path,
    )


def _host(host: str, *, is_bracketed: bool) -> str:
    if is_bracketed:
        return _ipv6(host)
    name = host.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError:
            _refuse("The host is not a valid international domain name.")
    if len(name) > HOST_MAX_CHARS or not all(map(_LABEL.fullmatch, name.split("."))):
        _refuse("The host is not a valid domain name or address.")
    if _NUMERIC.fullmatch(name):
        try:
            return str(ip_address(name))
        except ValueError:  # 127.1, 2130706433, 0177.0.0.1: resolvers read them, people do not
            _refuse("The host is an address in an unusual notation.")
    return name


def _ipv6(host: str) -> str:
    try:
        literal = IPv6Address(host)
    except ValueError:
        _refuse("The host is not a valid IPv6 address.")
    if literal.scope_id:
        _refuse("The host is an IPv6 address with a zone.")
    return str(literal)


def _refuse(sentence: str, *, remedy: str = "") -> NoReturn:
    raise BlockedAddress(sentence, remedy=remedy) from None
