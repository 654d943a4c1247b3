"""What is wrong with the form of a service's URL, without repeating any of it.

A URL holds a password. Whoever reads one wrongly, because of an `@` or a `/` that stands for
itself, may take part of the password for a host: so nothing of a malformed URL is quoted.
"""

from __future__ import annotations

import re

UNENCODED = (
    "has a character in its user or password that must be percent-encoded:"
    " write %40 for @, %2F for /, %3A for :, %23 for #, %3F for ? and %25 for %"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORT = re.compile(r":([^:\]]*)$")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORT_MAX = 65_535


def fault(url: str, *, schemes: tuple[str, ...], form: str) -> str:
    """What is wrong with `url`, as the end of a sentence that begins with its variable; or empty.

    `form` is how it is to be written. An authority may name several hosts (`a:1,b:2`).
    """
    found = _SCHEME.match(url)
    if found is None:
        return f"is not a URL: write {form}"
    if found[1].lower() not in schemes:
        return f"begins with {found[1]}://, which Relais cannot use here: write {form}"
    authority, path, query = _divided(url[found.end() :])
    userinfo, at, hosts = authority.rpartition("@")
    is_cut = not at and "@" in query and ":" in authority and _bad_port(authority)
    if "@" in userinfo or "@" in path or is_cut or _BAD_ESCAPE.search(userinfo):
        return UNENCODED
    if any(_bad_port(host) for host in hosts.split(",")):
        return f"has a port that is not a number from 1 to {_PORT_MAX}: write {form}"
    return ""


def shown(url: str) -> str:
    """Host and port of a well-formed `url`, several with commas: all of it that may be printed."""
    found = _SCHEME.match(url)
    return _divided(url[found.end() :])[0].rpartition("@")[2] if found else ""


def _divided(rest: str) -> tuple[str, str, str]:
    """Authority, path (with what a `#` begins, where the authority ends there), query."""
    before, _, query = rest.partition("?")
    cut = min((at for at in (before.find("/"), before.find("#")) if at >= 0), default=len(before))
    return before[:cut], before[cut:], query


def _bad_port(host: str) -> bool:
    port = _PORT.search(host)
    if port is None or not port[1]:
        return False
    return not (port[1].isascii() and port[1].isdecimal() and 1 <= int(port[1]) <= _PORT_MAX)
