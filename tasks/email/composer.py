"""A mail as bytes: composed once per attempt, and the same bytes on every attempt.

Everything that could differ is passed in: Message-ID and Date from the message's row, the
boundaries from the Message-ID. All parts are 7-bit, so no relay needs 8BITMIME for them.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.email import headers, invites, parts, smtp
from tasks.email.delivery import Mail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from ledger.messages import MessageRow
    from tasks.email.parts import Part
    from tasks.email.payload import Email
    from tasks.email.relays import Policy, Relay


def message_id(job_id: UUID, domain: str) -> str:
    """The Message-ID of a job's mail: the same for all its recipients and attempts."""
    return f"<{job_id.hex}@{domain}>"


def compose(email: Email, *, message_id: str, date: datetime, utf8: bool = False) -> bytes:
    """The whole message, lines ending in CRLF.

    `utf8`: non-ASCII addresses are written to the headers as they are (SMTPUTF8).
    """
    lines = [
        headers.date(date),
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
    parts.refuse_unfit(message)
    return message


def _tree(email: Email, message_id: str) -> Part:
    def boundary(level: str, members: Sequence[Part]) -> str:
        return _boundary(f"{message_id}{level[0]}", members)

    return parts.tree(
        text=None if email.text is None else parts.text("plain", email.text),
        html=None if email.html is None else parts.text("html", email.html),
        calendar=None if email.calendar is None else invites.part(email.calendar),
        attachments=email.attachments,
        boundary=boundary,
    )


def _boundary(seed: str, members: Sequence[Part]) -> str:
    """A line that no part contains."""
    number = 0
    while True:
        digest = hashlib.blake2b(f"{seed}{number}".encode(), digest_size=15).hexdigest()
        boundary = f"{parts.BOUNDARY_START}{digest}"
        if not any(boundary.encode() in part.body for part in members):
            return boundary
        number += 1


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
