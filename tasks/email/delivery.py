"""One message through a relay, with every phase in the ledger before it happens.

    sending -> (MAIL, RCPT, DATA, body) -> dot_sent committed -> dot -> reply -> committed

Before the dot everything can be undone by hanging up. After the dot only the reply counts: it is
awaited even if the job is cancelled meanwhile, for as long as the relay may take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ledger.messages import Dot, Mark
from ledger.models.mail import MessageState
from runtime import logs, metrics, telemetry
from tasks.email import message_writer, pool, replies
from tasks.email.outcome import MessageResult, settle
from tasks.email.replies import Phase
from tasks.email.smtp import Envelope, NoConversation
from tasks.email.wire import Broken

if TYPE_CHECKING:
    from ledger.messages import MessageRow
    from tasks.email.message_writer import MessageWriter
    from tasks.email.relays import Policy, Relay
    from tasks.email.replies import Negative, Result
    from tasks.email.smtp import Session

log = logs.logger("email")

Value = TypeVar("Value")


def leave(*, within_s: float) -> None:
    """The worker's grace period is over: abort what awaits a reply, record what is known.

    For the running event loop. If Postgres does not accept that within `within_s`, the next
    attempt finds the message as one whose dot went out.
    """
    pool.break_off("its worker had to stop")
    message_writer.leave(within_s=within_s)


@dataclass(frozen=True, slots=True)
class Mail:
    """What is sent for one recipient; `stuffed` is ready for DATA."""

    sender: str
    stuffed: bytes
    needs_smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the messages of one attempt are sent; `is_last`: this is the last attempt."""

    relay: Relay
    policy: Policy
    writer: MessageWriter
    still_owned: Callable[[], bool]
    is_last: bool

    async def deliver(self, row: MessageRow, mail: Mail) -> MessageResult:
        """Send one message and record the result.

        Cancelled (CancelledError) before the dot: the message remains to be sent. After the dot:
        returns normally once the reply is in the ledger. Raises LedgerUnavailable.
        """
        relay = self.relay
        with telemetry.span(
            "smtp.transaction",
            kind="client",
            attributes={
                "relay": relay.name,
                "host": relay.host,
                "port": relay.port,
                "tls": relay.security != "none",
                "policy": self.policy,
                "message_row": str(row.id),
                "bytes": len(mail.stuffed),
            },
        ) as span:
            offered = await self._offer(row, mail)
            if isinstance(offered, _Offered):
                span.set(reused=offered.is_reused, pipelining=offered.session.offers.pipelining)
                settlement = await self._send(row, mail, offered.session)
            else:
                settlement = await self._settle(row, offered)
            self._tell(row, settlement, span)
        return settlement

    async def _offer(self, row: MessageRow, mail: Mail) -> _Offered | Result:
        """Get the relay to reply 354; a kept connection that turns out to be dead costs nothing."""
        envelope = Envelope(mail.sender, row.recipient, mail.needs_smtputf8)
        relay_pool = pool.of(self.relay)
        fresh = False
        while True:
            try:
                session = await relay_pool.acquire(fresh=fresh)
            except NoConversation as error:
                return error.result
            offered_before = session.messages
            is_kept = offered_before > 0
            try:
                negative = await session.offer(envelope, size_bytes=len(mail.stuffed))
            except BaseException as error:
                session.hang_up()
                relay_pool.release(session)
                if not isinstance(error, Broken):
                    raise
                if is_kept and not fresh:
                    fresh = True
                    continue
                return replies.Lost(session.phase, error.why)
            if negative is None:
                return _Offered(session, is_kept)
            relay_pool.release(session)
            was_asked = session.messages > offered_before
            if is_kept and not fresh and was_asked and _may_be_old_news(negative):
                fresh = True
                continue
            return negative

    async def _send(self, row: MessageRow, mail: Mail, session: Session) -> MessageResult:
        is_marked = may_send = is_called_off = False
        try:
            await session.body(mail.stuffed)
            dot = self.writer.dot(Dot(row.id, row.job_id, row.attempt))
            # If its commit is never confirmed it may still have happened; and even if we are
            # cancelled now, we must know whether it did.
            is_marked = True
            is_marked, is_called_off = await _undisturbed(dot)
            await session.listen()
            may_send = is_marked and not is_called_off and self.still_owned()
            if may_send:
                session.send_dot()
        except BaseException as error:
            lost = _lost(session, error)
            settlement, _ = await _undisturbed(
                self._withdraw(row, session, lost, is_marked=is_marked)
            )
            if not isinstance(error, Broken):
                raise
            return settlement
        if not may_send:
            settlement, is_called_off_now = await _undisturbed(
                self._withdraw(row, session, replies.NotOurs(), is_marked=is_marked)
            )
            if is_called_off or is_called_off_now:
                raise asyncio.CancelledError
            return settlement
        settlement, _ = await _undisturbed(self._hear(row, session))
        return settlement

    async def _hear(self, row: MessageRow, session: Session) -> MessageResult:
        result: Result
        try:
            result = await session.final_reply()
        except Broken as error:
            result = replies.Lost(Phase.DOT, error.why)
        except BaseException:
            session.hang_up()
            raise
        finally:
            pool.of(self.relay).release(session)
        return await self._settle(row, result)

    async def _withdraw(
        self, row: MessageRow, session: Session, result: Result, *, is_marked: bool
    ) -> MessageResult:
        """Hang up before the dot; the relay discards what it has. Revert the mark.

        Otherwise the next attempt would have to treat the message as one in doubt.
        """
        session.hang_up()
        pool.of(self.relay).release(session)
        if isinstance(result, replies.NotOurs):
            if is_marked:
                was = row.state if row.state is MessageState.DOT_SENT else MessageState.PENDING
                await self.writer.mark(Mark(row.id, row.attempt, was, reason=row.reason))
            return MessageResult(row, result, state=None)
        return await self._settle(row, result)

    async def _settle(self, row: MessageRow, result: Result) -> MessageResult:
        settlement = settle(row, result, policy=self.policy, is_last=self.is_last)
        if settlement.mark is not None and not await self.writer.mark(settlement.mark):
            log.warning("message.lost_claim", job_id=row.job_id, message=row.id)
            return MessageResult(row, replies.NotOurs(), state=None)
        return settlement

    def _tell(self, row: MessageRow, settlement: MessageResult, span: telemetry.Span) -> None:
        outcome = settlement.state.value if settlement.state else "not_ours"
        mark = settlement.mark
        code = mark.reply_code if mark else None
        enhanced = mark.enhanced_code if mark else None
        span.set(outcome=outcome, reply_code=code, enhanced_code=enhanced)
        metrics.mailed(relay=self.relay.name, outcome=outcome)
        if settlement.state is MessageState.SENT:
            return
        span.fail(outcome)
        log.info(
            "message.not_sent",
            job_id=row.job_id,
            message=row.id,
            recipient=logs.hashed(row.recipient),
            relay=self.relay.name,
            outcome=outcome,
            reply_code=code,
            enhanced_code=enhanced,
        )


@dataclass(frozen=True, slots=True)
class _Offered:
    session: Session
    is_reused: bool


def _may_be_old_news(negative: Negative) -> bool:
    """Whether a kept connection may have sent this before it was given our message.

    Usually a goodbye; or one reply too many to the previous message, which must not refuse ours.
    """
    is_final = isinstance(negative, (replies.HostBackoff, replies.Refused))
    return is_final and negative.phase is Phase.MAIL


def _lost(session: Session, error: BaseException) -> Result:
    if isinstance(error, Broken):
        return replies.Lost(session.phase, error.why)
    return replies.NotOurs()


async def _undisturbed(work: Awaitable[Value]) -> tuple[Value, bool]:
    """The result of `work`, and whether we were cancelled while it was running."""
    task = asyncio.ensure_future(work)
    is_called_off = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            is_called_off = True
        except BaseException:  # noqa: BLE001 - raised again by result()
            break
    return task.result(), is_called_off
