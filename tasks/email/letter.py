"""The bytes that each recipient of a mail gets: composed at most twice a job."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from tasks.email import mime, smtp
from tasks.email.delivery import Mail

if TYPE_CHECKING:
    from ledger.messages import MessageRow
    from tasks.email.payload import Email
    from tasks.email.relays import Policy, Relay


class Letter:
    """One mail, ready to be addressed; Message-ID and Date are those of its `first` message."""

    def __init__(self, email: Email, *, relay: Relay, policy: Policy, first: MessageRow) -> None:
        self._email = email
        self._first = first
        self._key_header = relay.idempotency_header if policy == "idempotency_header" else ""
        answers_to = [email.from_, *email.reply_to]
        self._is_international = not all(box.address.isascii() for box in answers_to)

    def to(self, row: MessageRow) -> Mail:
        """What goes over the wire to the recipient of `row`."""
        needs_smtputf8 = self._is_international or not row.recipient.isascii()
        stuffed = self._international if needs_smtputf8 else self._plain
        if self._key_header:
            # The relay tells a repeated message by this; each recipient's is a message of its own.
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
            mime.compose(self._email, message_id=first.message_id, date=first.created_at, utf8=utf8)
        )
