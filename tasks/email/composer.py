"""A mail as bytes: composed once per attempt, and the same bytes on every attempt.

Everything that could differ is passed in: Message-ID and Date from the message's row, the
boundaries from the Message-ID. All parts are 7-bit, so no relay needs 8BITMIME for them.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.email import headers, smtp
from tasks.email.delivery import Mail
from tasks.errors import PayloadError

if TYPE_CHECKING:
    from uuid import UUID

    from ledger.messages import MessageRow
    from tasks.email.payload import Attachment, Email
    from tasks.email.relays import Policy, Relay

LINE_MAX = 998  # RFC 5322, without CRLF
_ASCII = bytes(range(128))
_SEVEN_BIT = re.compile(r"[\t\n\x20-\x7e]*")
_LINE_ENDS = re.compile(r"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class _Part:
    headers: str
    body: bytes


def message_id(job_id: UUID, domain: str) -> str:
    """The Message-ID of a job's mail: the same for all its recipients and attempts."""
    return f"<{job_id.hex}@{domain}>"


def compose(email: Email, *, message_id: str, date: datetime, utf8: bool = False) -> bytes:
    """The whole message, lines ending in CRLF.

    `utf8`: non-ASCII addresses are written to the headers as they are (SMTPUTF8).
    """
    lines = [
        f"Date: {format_datetime(date.astimezone(UTC).replace(microsecond=0))}\r\n",
        headers.addresses("From", [email.from_], utf8=utf8),
    ]
    if email.to:
        lines.append(headers.addresses("To", email.to, utf8=utf8))
    elif not email.cc:
        lines.append("To: undisclosed-recipients:;\r\n")
    if email.cc:
        lines.append(headers.addresses("Cc", email.cc, utf8=utf8))
    if email.reply_to:
        lines.append(headers.addresses("Reply-To", email.reply_to, utf8=utf8))
    lines.append(headers.unstructured("Subject", email.subject))
    lines.append(f"Message-ID: {message_id}\r\n")
    lines.extend(headers.custom(name, value) for name, value in email.headers.items())
    lines.append("MIME-Version: 1.0\r\n")
    part = _tree(email, message_id)
    message = "".join(lines).encode() + part.headers.encode() + b"\r\n" + part.body
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    _refuse_unfit(message)
    return message


def _tree(email: Email, seed: str) -> _Part:
    """mixed(related(alternative(text, html), inline...), attachments...), without empty levels."""
    texts = []
    if email.text is not None:
        texts.append(_text("plain", email.text))
    inline = [_file(a, "inline") for a in email.attachments if a.content_id]
    if email.html is not None:
        html = _text("html", email.html)
        # Images belong to the HTML only: readers of the plain text need not see them.
        texts.append(_multipart("related", [html, *inline], f"{seed}r"))
    root = _multipart("alternative", texts, f"{seed}a")
    files = [_file(a, "attachment") for a in email.attachments if not a.content_id]
    return _multipart("mixed", [root, *files], f"{seed}m")


def _multipart(subtype: str, parts: list[_Part], seed: str) -> _Part:
    if len(parts) == 1:
        return parts[0]
    boundary = _boundary(seed, parts)
    body = bytearray()
    for part in parts:
        body += f"--{boundary}\r\n{part.headers}\r\n".encode() + part.body + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    first = ';\r\n type="text/html"' if subtype == "related" else ""
    return _Part(
        f'Content-Type: multipart/{subtype}{first};\r\n boundary="{boundary}"\r\n', bytes(body)
    )


def _boundary(seed: str, parts: list[_Part]) -> str:
    """A line that no part contains: `=_` never occurs in quoted-printable or base64."""
    number = 0
    while True:
        digest = hashlib.blake2b(f"{seed}{number}".encode(), digest_size=15).hexdigest()
        boundary = f"=_{digest}"
        if not any(boundary.encode() in part.body for part in parts):
            return boundary
        number += 1


def _text(subtype: str, text: str) -> _Part:
    text = _LINE_ENDS.sub("\n", text)
    data = text.encode()
    start = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding:"
    if _SEVEN_BIT.fullmatch(text) and max(map(len, text.split("\n"))) <= LINE_MAX:
        return _Part(f"{start} 7bit\r\n", data.replace(b"\n", b"\r\n"))
    foreign = len(data.translate(None, delete=_ASCII))
    if foreign * 4 > len(data):
        return _Part(f"{start} base64\r\n", _base64(data.replace(b"\n", b"\r\n")))
    quoted = binascii.b2a_qp(data, istext=True)
    return _Part(f"{start} quoted-printable\r\n", quoted.replace(b"\n", b"\r\n"))


def _file(attachment: Attachment, disposition: str) -> _Part:
    lines = (
        f"Content-Type: {attachment.content_type}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: {disposition}"
        f"{headers.parameter('filename', attachment.filename)}\r\n"
    )
    if attachment.content_id:
        lines += f"Content-ID: <{attachment.content_id}>\r\n"
    return _Part(lines, _base64(attachment.content))


def _base64(data: bytes) -> bytes:
    encoded = binascii.b2a_base64(data, newline=False)
    return b"\r\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))


def _refuse_unfit(message: bytes) -> None:
    """The last guard against smuggling (VU#302671): only whole CRLFs, no NUL, no endless line."""
    ends = message.count(b"\r\n")
    is_bare = message.count(b"\r") != ends or message.count(b"\n") != ends
    if is_bare or b"\x00" in message or max(map(len, message.split(b"\r\n"))) > LINE_MAX:
        sentence = "The mail cannot be written as lines that every relay accepts."
        raise PayloadError(sentence, remedy="Shorten its headers.")


class Composer:
    """One mail, ready to be addressed; Message-ID and Date are those of its `first` message."""

    def __init__(self, email: Email, *, relay: Relay, policy: Policy, first: MessageRow) -> None:
        self._email = email
        self._first = first
        self._key_header = relay.idempotency_header if policy == "idempotency_header" else ""
        answers_to = [email.from_, *email.reply_to]
        self._is_international = not all(box.address.isascii() for box in answers_to)

    def addressed_to(self, row: MessageRow) -> Mail:
        """What goes over the wire to the recipient of `row`."""
        needs_smtputf8 = self._is_international or not row.recipient.isascii()
        stuffed = self._international if needs_smtputf8 else self._plain
        if self._key_header:
            # The relay recognises a repeated message by this; each recipient has a separate
            # message.
            stuffed = f"{self._key_header}: {row.id}\r\n".encode() + stuffed
        return Mail(self._email.from_.address, stuffed, needs_smtputf8)

    @cached_property
    def _plain(self) -> bytes:
        return self._composed(utf8=False)

    @cached_property
    def _international(self) -> bytes:
        return self._composed(utf8=True)

    def _composed(self, *, utf8: bool) -> bytes:
        first = self._first
        return smtp.stuff(
            compose(self._email, message_id=first.message_id, date=first.created_at, utf8=utf8)
        )
