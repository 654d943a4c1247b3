"""The SMTP side: aiosmtpd's conversation with the inbox's answers.

Three things are done differently from aiosmtpd for speed: the text is read in blocks instead
of line by line, an ordinary address is recognised by one pattern before the full RFC 5322 parser
is asked, and the replies to a group of pipelined commands leave in one packet.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from aiosmtpd.smtp import SMTP
from aiosmtpd.smtp import Envelope as Transaction

from ops.inbox import behaviour
from ops.inbox.journal import JournalFullError
from ops.inbox.mail import Envelope, read_header

if TYPE_CHECKING:
    from aiosmtpd.smtp import Session

    from ops.inbox.mailbox import Mailbox

SIZE_MAX_BYTES = 26_214_400
LINE_MAX_BYTES = 1000  # RFC 5321 4.5.3.1.6, CRLF included
_PLAIN_PATH = re.compile(r"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+)>(.*)", re.DOTALL)


class Answers:
    """aiosmtpd's hooks: what to answer, and when a mail counts as accepted."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_EHLO(  # noqa: N802 - aiosmtpd looks hooks up by the command's name
        self,
        _server: SMTP,
        session: Session,
        _transaction: Transaction,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """Offer what the conversation can do beside aiosmtpd's own list."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    async def handle_MAIL(  # noqa: N802
        self,
        _server: SMTP,
        _session: Session,
        transaction: Transaction,
        address: str,
        options: list[str],
    ) -> str:
        """Take the sender."""
        if not _is_unicode(address):
            return "553 5.6.7 The address is not valid UTF-8"
        transaction.mail_from = address
        transaction.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self,
        server: SMTP,
        _session: Session,
        transaction: Transaction,
        address: str,
        _options: list[str],
    ) -> str:
        """Take a recipient, or do what its local part asks for."""
        if not _is_unicode(address):
            return "553 5.6.7 The address is not valid UTF-8"
        if not address.isascii() and not transaction.smtp_utf8:
            return "553 5.6.7 A non-ASCII address needs SMTPUTF8"
        wanted = behaviour.of(address)
        if not wanted.reply:
            transaction.rcpt_tos.append(address)
            return "250 2.1.5 OK"
        await self._mailbox.turn_away(wanted.event, address, reply=wanted.reply)
        if wanted.closes:
            await server.push(wanted.reply)
            assert server.transport is not None  # noqa: S101 - narrows aiosmtpd's Optional
            server.transport.close()
            raise asyncio.CancelledError  # ends the conversation as a lost connection does
        return wanted.reply

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, session: Session, transaction: Transaction
    ) -> str:
        """Keep the mail; 250 is answered only once it is on disk."""
        raw = transaction.content
        assert isinstance(raw, bytes)  # noqa: S101 - decode_data is off
        if max(map(len, raw.split(b"\n"))) >= LINE_MAX_BYTES:
            return "500 5.6.0 A line is longer than 998 octets"
        if not raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n"):
            return "550 5.6.11 A bare CR or LF is in the text"
        header = read_header(raw)
        wanted = [(name, behaviour.of(name)) for name in transaction.rcpt_tos]
        deferring = [
            name
            for name, asked in wanted
            if asked.defers_once and not self._mailbox.was_deferred(header.message_id, name)
        ]
        try:
            if deferring:
                reply = "451 4.7.1 Greylisted, come back later"
                for name in deferring:
                    await self._mailbox.turn_away(
                        "deferred", name, reply=reply, message_id=header.message_id
                    )
                return reply
            envelope = Envelope(
                transaction.mail_from or "", tuple(transaction.rcpt_tos), session.host_name or ""
            )
            await self._mailbox.accept(envelope, header, raw)
        except JournalFullError:
            return "452 4.3.1 Insufficient storage"
        delay_s = max(asked.delay_s for _, asked in wanted)
        if delay_s:
            await asyncio.sleep(delay_s)
        return "250 2.0.0 OK, kept"


class Conversation(SMTP):
    """One connection."""

    line_length_limit = 65_536  # the reader's block; lines are judged in handle_DATA

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__(
            Answers(mailbox),
            data_size_limit=SIZE_MAX_BYTES,
            enable_SMTPUTF8=True,
            hostname="inbox.localhost",
            ident="Relais inbox",
            loop=asyncio.get_running_loop(),
        )
        self._replies = bytearray()

    async def push(self, status: str | bytes) -> None:
        """Answer one command; held back while the next one of its group is already here."""
        self._replies += (status.encode() if isinstance(status, str) else status) + b"\r\n"
        is_goodbye = self._replies.startswith(
            (b"221", b"421"), self._replies.rfind(b"\n", 0, -1) + 1
        )
        if is_goodbye or b"\n" not in self._reader._buffer:  # type: ignore[attr-defined] # noqa: SLF001
            replies, self._replies = self._replies, bytearray()
            self._writer.write(replies)
            await self._writer.drain()

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        found = _PLAIN_PATH.fullmatch(arg)
        if found:
            return found[1], found[2]
        return super()._getaddr(arg)

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802
        """Read the text up to the lone dot, then ask `handle_DATA`."""
        assert self.envelope is not None  # noqa: S101 - set by connection_made
        if await self.check_helo_needed():
            return
        if not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        text = await self._read_text()
        if text is None:
            status = "552 5.3.4 Error: Too much mail data"
        else:
            self.envelope.content = self.envelope.original_content = text
            status = await self._call_handler_hook("DATA")
        self.envelope = self._create_envelope()
        await self.push(status)

    async def _read_text(self) -> bytes | None:
        """The text, dots unstuffed; None where it is larger than SIZE_MAX_BYTES."""
        text = bytearray()
        too_much = False
        while True:
            try:
                # ".\r\n" ends a block so that nothing behind the lone dot is taken: a
                # pipelining client may have its next command there.
                text += await self._reader.readuntil(b".\r\n")
                if text.endswith(b"\r\n.\r\n") or text == b".\r\n":
                    break
            except asyncio.LimitOverrunError as error:
                text += await self._reader.read(error.consumed)
            if len(text) > SIZE_MAX_BYTES + 3:
                too_much = True
                del text[:-5]  # the end is still needed to recognise the lone dot
        if too_much or len(text) > SIZE_MAX_BYTES + 3:
            return None
        del text[-3:]
        if text.startswith(b"."):
            del text[0]
        return bytes(text.replace(b"\r\n.", b"\r\n"))


def _is_unicode(address: str) -> bool:
    try:
        address.encode()
    except UnicodeEncodeError:
        return False
    return True
