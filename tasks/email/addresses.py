"""Mailboxes: `a@example.org`, `Name <a@example.org>` or {"name": ..., "address": ...}.

Only the syntax is checked. Domains become A-labels (RFC 5890), as they go over the wire; a local
part outside ASCII stays as it is and asks for SMTPUTF8 (RFC 6531).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from email_validator import EmailNotValidError, validate_email
from pydantic import BaseModel, ConfigDict, Field, field_validator

NAME_MAX = 200
ADDRESS_MAX = 254
DOMAIN_MAX = 253
LABEL_MAX = 63
A_LABEL_EXTRA = 4  # an A-label is at least this much longer than the label itself: "xn--"
LIST_MAX = 50
_LENGTH_MAX = 1_000  # of what is parsed at all

# The common case, without the cost of a full check: plain ASCII, no A-labels.
_LABEL = r"(?!xn--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_PLAIN = re.compile(
    rf"{_PLAIN_LOCAL.pattern}@(?:{_LABEL}\.)+(?=[A-Za-z])[A-Za-z-]{{2,63}}(?<!-)",
)
# Possessive throughout: a megabyte of spaces must not cost a second of the gateway's time.
_MAILBOX = re.compile(
    r'\s*+(?:(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"\s*+|(?P<name>[^<>",]*+))<(?P<angle>[^<>]*+)>'
    r"|(?P<bare>[^<>,\s]++))\s*+",
)
_ESCAPED = re.compile(r"\\(.)")
CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Mailbox(BaseModel):
    """An address and its display name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(description="The address.", examples=["ada@example.org"])
    name: str = Field(
        "", max_length=NAME_MAX, description="Display name.", examples=["Ada Lovelace"]
    )

    @field_validator("name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        refuse_controls(value, "A name")
        return value.strip()

    @field_validator("address")
    @classmethod
    def _wire_form(cls, value: str) -> str:
        return wire_form(value)

    @property
    def local(self) -> str:
        """The part before the @."""
        return self.address.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """The part after the @, as A-labels."""
        return self.address.rpartition("@")[2]


def wire_form(address: str) -> str:
    """`address` as it goes over the wire; ValueError with a reason if it is not valid."""
    address = address.strip()
    if len(address) > _LENGTH_MAX:
        message = f"{address[:80]!r}... is too long for an email address"
        raise ValueError(message)
    if len(address) <= ADDRESS_MAX and _PLAIN.fullmatch(address):
        local, _, domain = address.rpartition("@")
        if len(local) <= 64 and len(domain) <= 253:
            return f"{local}@{domain.lower()}"
    local, _, domain = address.rpartition("@")
    if local:
        _refuse_long(address, domain)
    if len(local) <= 64 and _PLAIN_LOCAL.fullmatch(local):
        domain = _ascii_domain(domain)
        if domain and len(local) + 1 + len(domain) <= ADDRESS_MAX:
            return f"{local}@{domain}"
    return _checked(address)


def _refuse_long(address: str, domain: str) -> None:
    """Refuse what is certainly too long as A-labels; encoding takes quadratic time."""
    wire_chars = 0
    # As IDNA normalises it first: combining marks join their letters, other full stops become dots.
    for label in unicodedata.normalize("NFKC", domain).replace("\u3002", ".").split("."):
        label_chars = len(label) + (0 if label.isascii() else A_LABEL_EXTRA)
        wire_chars += label_chars + 1
        if label_chars > LABEL_MAX or wire_chars > DOMAIN_MAX + 1:
            message = f"{address[:80]!r} is not an email address: its domain is too long"
            raise ValueError(message)


@lru_cache(maxsize=4096)
def _ascii_domain(domain: str) -> str:
    """`domain` as A-labels, which takes a millisecond; empty if it is not valid."""
    try:
        valid = validate_email(
            f"a@{domain}", check_deliverability=False, globally_deliverable=False, strict=True
        )
    except EmailNotValidError:
        return ""
    return valid.ascii_domain


@lru_cache(maxsize=4096)
def _checked(address: str) -> str:
    refuse_controls(address, "An address")
    try:
        valid = validate_email(
            address, check_deliverability=False, globally_deliverable=False, strict=True
        )
    except EmailNotValidError as error:
        message = f"{address[:80]!r} is not an email address: {error}"
        raise ValueError(message) from error
    return f"{valid.local_part}@{valid.ascii_domain}"


def mailboxes(value: object) -> list[Any]:
    """What a caller may write for a list of recipients, as a list of one mailbox each.

    A string may hold several, separated by commas.
    """
    if value is None:
        return []
    entries = value if isinstance(value, list) else [value]
    found: list[Any] = []
    for entry in entries:
        found.extend(_split(entry) if isinstance(entry, str) else [entry])
        if len(found) > LIST_MAX:
            message = f"has more than {LIST_MAX} addresses"
            raise ValueError(message)
    return found


def mailbox(value: object) -> object:
    """What a caller may write for one mailbox."""
    if not isinstance(value, str):
        return value
    found = _split(value)
    if len(found) != 1:
        message = "must be one address"
        raise ValueError(message)
    return found[0]


def refuse_controls(value: str, what: str) -> None:
    """ValueError if `value` has control characters (line ends above all) or surrogates."""
    if CONTROLS.search(value):
        message = f"{what} must not contain line breaks, NUL or other control characters."
        raise ValueError(message)


def _split(text: str) -> list[dict[str, str]]:
    refuse_controls(text, "An address")
    found: list[dict[str, str]] = []
    position = 0
    while position < len(text) and len(found) <= LIST_MAX:
        match = _MAILBOX.match(text, position)
        if match is None or (match.end() < len(text) and text[match.end()] != ","):
            message = f"{text[:80]!r} is not of the form 'a@example.org' or 'Name <a@example.org>'"
            raise ValueError(message)
        name = (match["name"] or "").strip()
        if match["quoted"] is not None:
            name = _ESCAPED.sub(r"\1", match["quoted"])
        found.append({"name": name, "address": match["angle"] or match["bare"] or ""})
        position = match.end() + 1
    return found
