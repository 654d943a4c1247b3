"""What must not leave the process in a log line or a span, taken out of free text.

Fields are chosen by hand and need none of this; messages of libraries and of exceptions are
not: they quote addresses, connection URLs and bound parameters.
"""

from __future__ import annotations

import re

# Anything around an @ is an address or the login part of a URL; both go whole.
_ADDRESS = re.compile(r"[^\s<>\"'(),;:=\[\]]*(?:://[^\s<>\"']*)?@[^\s<>\"'(),;\]]+")
_QUERY = re.compile(r"(?<=\S)\?[^\s\"'<>]*=[^\s\"'<>]*")
_PARAMETERS = re.compile(r"\[parameters: .*|^DETAIL: .*", re.MULTILINE)
_SECRET = re.compile(r"\b(?:whsec|rls)_[A-Za-z0-9+/=_-]+")


def redacted(text: str) -> str:
    """`text` without addresses, logins, query strings, bound parameters and keys."""
    text = _PARAMETERS.sub("[left out]", text)
    if "@" in text:
        text = _ADDRESS.sub("[address]", text)
    if "?" in text:
        text = _QUERY.sub("?[query]", text)
    return _SECRET.sub("[secret]", text)
