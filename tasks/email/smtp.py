"""A conversation with a relay, command by command, so that the phase is always known.

`Session.open` connects and logs in; `offer` brings one message up to the relay's 354; `body`
sends all of it except the final dot; `dot` sends that and reads the reply. Between `body` and `dot`
the caller commits its mark. Leaving in between, by whatever exception, must end in `hang_up`.
"""

from __future__ import annotations

import re
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.email import extensions, replies, tls
from tasks.email.extensions import Offers
from tasks.email.replies import Phase, Reply
from tasks.email.wire import Broken, Wire
from tasks.errors import SmtpError

if TYPE_CHECKING:
    from tasks.email.relays import Relay
    from tasks.email.replies import Negative

QUIT_TIMEOUT_S = 2.0
# A relay may take its time to reply, but its kernel may not: if nothing even acknowledges what we
# sent, the other end is gone. After the dot only the reply counts.
UNACKNOWLEDGED_S = 30.0
_DOTS = re.compile(rb"^\.", re.MULTILINE)


class NoConversation(SmtpError):  # noqa: N818 - reads as the state it is
    """No session could be opened; `result` says why."""

    def __init__(self, result: replies.Unreachable | replies.Crowded | Negative) -> None:
        reason = (
            result.reason
            if isinstance(result, (replies.Unreachable, replies.Crowded))
            else result.reply.text
        )
        super().__init__(f"The relay cannot be used now: {reason}")
        self.result = result


@dataclass(frozen=True, slots=True)
class Envelope:
    """Sender and recipient, and what the relay must support for them."""

    sender: str
    recipient: str
    needs_smtputf8: bool = False


class Session:
    """One connection to a relay, logged in; carries many messages, one after another."""

    def __init__(self, relay: Relay, wire: Wire) -> None:
        self.relay = relay
        self.offers = Offers()
        self.messages = 0  # that were offered on this connection
        self.phase = Phase.CONNECT
        self.opened_at = time.monotonic()
        self.idle_since = self.opened_at
        self._wire = wire
        self._has_open_transaction = False

    @classmethod
    async def open(cls, relay: Relay) -> Session:
        """Connect, greet, secure and log in; raises NoConversation."""
        wire = Wire()
        session = cls(relay, wire)
        phase = Phase.CONNECT
        try:
            await session._connect()
            await session._greet()
            if relay.security == "starttls":
                await session._secure()
            if relay.user:
                phase = Phase.LOGIN
                await session._log_in()
            await wire.listen()  # an unsolicited reply must not answer the first email
        except (OSError, Broken, TimeoutError) as error:
            wire.close()
            reason = f"{phase}: {_words(error)}"
            raise NoConversation(replies.Unreachable(reason)) from error
        except BaseException:
            wire.close()
            raise
        return session

    @property
    def is_usable(self) -> bool:
        """Whether another message may be tried on it."""
        return self._wire.is_usable

    async def offer(self, envelope: Envelope, *, size_bytes: int) -> Negative | None:
        """MAIL, RCPT and DATA, in one write if the relay allows it; None: it replied 354.

        Raises Broken; then the message was not sent.
        """
        refusal = self._refuse_here(envelope, size_bytes)
        if refusal is not None:
            return refusal
        self.messages += 1
        commands = [
            (Phase.MAIL, self._mail(envelope, size_bytes)),
            (Phase.RCPT, f"RCPT TO:<{envelope.recipient}>\r\n".encode()),
            (Phase.DATA, b"DATA\r\n"),
        ]
        if self._has_open_transaction:
            commands.insert(0, (Phase.MAIL, b"RSET\r\n"))
        self._has_open_transaction = True
        self._wire.bear_silence(UNACKNOWLEDGED_S)
        if self.offers.pipelining:
            return await self._offer_at_once(commands)
        for phase, command in commands:
            self.phase = phase
            self._wire.write(command, asks=1)
            reply = await self._wire.reply(timeout_s=self._timeout_s(phase))
            if not self._is_hoped_for(reply, phase):
                return self._negative(reply, phase)
        return None

    async def body(self, stuffed: bytes) -> None:
        """Send the message as `stuff` made it; only the final dot is left to send."""
        self.phase = Phase.BODY
        self._wire.bear_silence(self.relay.timeouts.block_s)
        await self._wire.write_all(stuffed, chunk_timeout_s=self.relay.timeouts.block_s)

    async def listen(self) -> None:
        """Read what came since the 354: it answers nothing, least of all the dot to come.

        Raises Broken if there was anything.
        """
        await self._wire.listen()

    def send_dot(self) -> None:
        """Send the final dot; raises Broken if it certainly did not go out."""
        self._wire.bear_silence(self.relay.timeouts.dot_s)
        self._wire.write(b".\r\n", asks=1)
        self.phase = Phase.DOT

    async def final_reply(self) -> replies.Accepted | Negative:
        """The reply to the dot; raises Broken, and then it is unknown who has the message."""
        reply = await self._wire.reply(timeout_s=self.relay.timeouts.dot_s)
        self._has_open_transaction = False
        self.idle_since = time.monotonic()
        if not self._is_hoped_for(reply, Phase.DOT):
            return self._negative(reply, Phase.DOT)
        extra = self._wire.unasked
        if extra is not None and extra.code >= 400 and extra.code != 421:
            # The first may have been on its way before the dot: then the second is the reply.
            why = f"the relay replied to the dot twice ({reply.text}; {extra.text})"
            raise Broken(why)
        return replies.Accepted(reply)

    def hang_up(self) -> None:
        """Close at once; this discards a message without its dot."""
        self._wire.close()

    def break_off(self, why: str) -> None:
        """Close at once; whatever waits for a reply gets an error."""
        self._wire.break_off(why)

    def say_quit(self) -> None:
        """Close after a QUIT, without waiting for the reply."""
        self._wire.finish(b"QUIT\r\n")

    async def quit(self) -> None:
        """Say goodbye, briefly, and close."""
        try:
            self._wire.write(b"QUIT\r\n", asks=1)
            await self._wire.reply(timeout_s=QUIT_TIMEOUT_S)
        except Broken:
            pass  # it is leaving, as we are
        finally:
            self._wire.close()

    async def _connect(self) -> None:
        relay = self.relay
        context = tls.client_context(relay.verify, relay.ca) if relay.security == "tls" else None
        await self._wire.connect(
            relay.host, relay.port, tls=context, timeout_s=relay.timeouts.connect_s
        )
        self._wire.bear_silence(UNACKNOWLEDGED_S)
        reply = await self._wire.reply(timeout_s=relay.timeouts.greeting_s)
        if reply.code != 220:
            raise NoConversation(_trouble(reply, "greeting"))

    async def _greet(self) -> None:
        name = self.relay.helo or self._own_name()
        reply = await self._command(f"EHLO {name}")
        if reply.code == 250:
            self.offers = extensions.offers(reply)
            return
        if reply.code in {500, 501, 502, 504}:
            reply = await self._command(f"HELO {name}")
        if reply.code != 250:
            raise NoConversation(_trouble(reply, "EHLO"))
        self.offers = Offers()

    async def _secure(self) -> None:
        if not self.offers.starttls:
            raise NoConversation(replies.Unreachable("the relay does not offer STARTTLS"))
        reply = await self._command("STARTTLS")
        if reply.code != 220:
            raise NoConversation(_trouble(reply, "STARTTLS"))
        relay = self.relay
        await self._wire.start_tls(
            tls.client_context(relay.verify, relay.ca),
            host=relay.host,
            timeout_s=relay.timeouts.connect_s,
        )
        await self._greet()  # what was announced in the clear no longer counts (RFC 3207)

    async def _log_in(self) -> None:
        user, password = self.relay.user, self.relay.password
        if "PLAIN" in self.offers.auth:
            secret = b64encode(f"\0{user}\0{password}".encode()).decode()
            reply = await self._command(f"AUTH PLAIN {secret}")
        elif "LOGIN" in self.offers.auth:
            reply = await self._command("AUTH LOGIN")
            for word in (user, password):
                if reply.code == 334:
                    reply = await self._command(b64encode(word.encode()).decode())
        else:
            none = Reply(535, ("5.7.4 The relay offers neither AUTH PLAIN nor AUTH LOGIN",))
            raise NoConversation(replies.LoginRefused(none, Phase.LOGIN))
        if reply.code == 235:
            return
        if reply.code >= 500:
            raise NoConversation(replies.classify(reply, Phase.LOGIN))
        raise NoConversation(_trouble(reply, "login"))  # temporary trouble: not the email's fault

    async def _command(self, line: str) -> Reply:
        self._wire.write(f"{line}\r\n".encode(), asks=1)
        return await self._wire.reply(timeout_s=self.relay.timeouts.command_s)

    async def _offer_at_once(self, commands: list[tuple[Phase, bytes]]) -> Negative | None:
        self._wire.write(b"".join(command for _, command in commands), asks=len(commands))
        negative: Negative | None = None
        for phase, _ in commands:
            self.phase = phase
            try:
                reply = await self._wire.reply(timeout_s=self._timeout_s(phase))
            except Broken:
                if negative is None:
                    raise
                return negative  # refused and hung up: the refusal stands
            is_hoped_for = self._is_hoped_for(reply, phase)
            if negative is None and not is_hoped_for:
                negative = self._negative(reply, phase)
            elif negative is not None and is_hoped_for:
                if negative.phase is Phase.MAIL:
                    # No sender, and yet a recipient: the refusal was not meant for our MAIL.
                    raise self._out_of_step(reply)
                if phase is Phase.DATA:
                    self.hang_up()  # it waits for a message that is not to be sent
        return negative

    def _is_hoped_for(self, reply: Reply, phase: Phase) -> bool:
        """Whether the reply is positive; raises Broken if it is neither a yes nor a no to `phase`.

        Then the relay is answering something other than what it was asked: it may be about to take
        what is sent next for the body of another email.
        """
        if reply.code >= 400:
            return False
        if phase is Phase.DATA:
            is_yes = reply.code == 354
        else:  # 220 and 221 are about the connection
            is_yes = reply.code < 300 and reply.code not in {220, 221}
        if not is_yes:
            raise self._out_of_step(reply)
        return True

    def _out_of_step(self, reply: Reply) -> Broken:
        self.hang_up()
        return Broken(f"the relay is out of step ({reply.text})")

    def _negative(self, reply: Reply, phase: Phase) -> Negative:
        negative = replies.classify(reply, phase)
        self.idle_since = time.monotonic()
        if isinstance(negative, (replies.HostBackoff, replies.LoginRefused)):
            self.hang_up()
        return negative

    def _refuse_here(self, envelope: Envelope, size_bytes: int) -> Negative | None:
        """What the relay has already announced that it will not accept."""
        size_max = self.offers.size_max_bytes
        if size_max and size_bytes > size_max:
            text = f"5.3.4 The message has {size_bytes} bytes, the relay accepts {size_max}"
            return replies.Refused(Reply(552, (text,)), Phase.MAIL)
        if envelope.needs_smtputf8 and not self.offers.smtputf8:
            text = "5.6.7 The address is not ASCII and the relay does not offer SMTPUTF8"
            return replies.Refused(Reply(553, (text,)), Phase.MAIL)
        return None

    def _mail(self, envelope: Envelope, size_bytes: int) -> bytes:
        command = f"MAIL FROM:<{envelope.sender}>"
        if self.offers.size_max_bytes:
            command += f" SIZE={size_bytes}"
        if envelope.needs_smtputf8:
            command += " BODY=8BITMIME SMTPUTF8"
        return f"{command}\r\n".encode()

    def _timeout_s(self, phase: Phase) -> float:
        timeouts = self.relay.timeouts
        return timeouts.data_s if phase is Phase.DATA else timeouts.command_s

    def _own_name(self) -> str:
        transport = self._wire.transport
        address = transport.get_extra_info("sockname")[0] if transport else "127.0.0.1"
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def stuff(message: bytes) -> bytes:
    """`message` (CRLF lines) as DATA wants it: dots at line starts doubled, ending in CRLF."""
    stuffed = _DOTS.sub(b"..", message) if b"\n." in message or message[:1] == b"." else message
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"


def _trouble(reply: Reply, at: str) -> replies.HostBackoff | replies.Unreachable:
    if reply.code == 421:
        return replies.HostBackoff(reply, Phase.CONNECT)
    return replies.Unreachable(f"{at}: {reply.text}")


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the relay's certificate is not trusted ({error.verify_message})"
    if isinstance(error, Broken):
        return error.why
    if isinstance(error, TimeoutError):
        return "timed out connecting"
    return str(error) or type(error).__name__
