"""The one form in which email addresses are compared, stored as suppressed, and deduplicated."""

from __future__ import annotations

from unicodedata import normalize

import idna


def canonical(address: str) -> str:
    """`address` in the form that all spellings of it share.

    The domain as A-labels after UTS 46, non-transitional, so that `straße.example` stays another
    domain than `strasse.example`; a domain that UTS 46 does not cover is only composed and
    lower-cased. The local part is composed (NFC) and lower-cased: RFC 5321 would let a host
    distinguish `Ada` from `ada`, but people who ask for no more mail mean both. Idempotent.
    """
    text = address.strip()
    if text.isascii() and "xn--" not in text.lower():
        return text.lower().removesuffix(".")
    local, at, domain = text.rpartition("@")
    return f"{_composed(local)}{at}{_ascii(domain)}"


def _ascii(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode().lower().removesuffix(".")
    except (idna.IDNAError, UnicodeError):
        return _composed(domain).removesuffix(".")


def _composed(text: str) -> str:
    return normalize("NFC", normalize("NFC", text).lower())
