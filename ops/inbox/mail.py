"""A mail as the inbox keeps it, and what is read from its header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

_MESSAGE_ID = re.compile(
    rb"^message-id:[ \t\r\n]*(<[^>\r\n]*>|[^\r\n]*)", re.IGNORECASE | re.MULTILINE
)
_SUBJECT = re.compile(rb"^subject:[ \t]*((?:[^\r\n]|\r\n[ \t])*)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the SMTP conversation said; `helo` is the client's name for itself."""

    sender: str
    recipients: tuple[str, ...]
    helo: str


@dataclass(frozen=True, slots=True)
class Header:
    """The two fields that the inbox knows mails by; the subject is decoded."""

    message_id: str
    subject: str


def read_header(raw: bytes) -> Header:
    """Message-ID and subject of `raw`; empty where they are missing."""
    end = raw.find(b"\r\n\r\n")
    head = raw if end < 0 else raw[: end + 2]
    found = _MESSAGE_ID.search(head)
    message_id = found.group(1).strip().decode("utf-8", "replace") if found else ""
    found = _SUBJECT.search(head)
    subject = found.group(1).replace(b"\r\n", b"").decode("utf-8", "replace") if found else ""
    return Header(message_id, decoded(subject))


def decoded(subject: str) -> str:
    """A header field with its encoded words (RFC 2047) decoded; as it came where they are wrong."""
    if "=?" not in subject:
        return subject
    try:
        return str(make_header(decode_header(subject)))
    except (HeaderParseError, LookupError, ValueError):
        return subject  # an unknown charset: shown as it came
