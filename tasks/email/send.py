"""The kind `email.send`: one mail to up to fifty recipients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ledger import dependence
from ledger.addresses import canonical
from ledger.errors import LedgerUnavailable
from ledger.messages import Preparation, Recipient
from ledger.models.mail import MessageState
from runtime.errors import SettingsError
from tasks.email import composer, content, message_writer, outcome, relays, replies
from tasks.email.composer import Composer
from tasks.email.delivery import Delivery
from tasks.email.message_writer import Opening
from tasks.email.outcome import MessageResult, resume
from tasks.email.payload import Email
from tasks.errors import PayloadError, RenderError
from tasks.kinds import Backoff, kind
from tasks.outcomes import Failed, Snooze

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.messages import MessageRow
    from tasks.context import Context
    from tasks.email.message_writer import MessageWriter
    from tasks.email.relays import Policy, Relay
    from tasks.outcomes import Outcome

# A relay may take ten minutes to reply to the dot (RFC 5321), and that must not be cut short.
TIMEOUT_S = 900.0
# Most trouble is over in a minute; a relay that is down overnight must not lose the email.
RETRIES_S = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 43_200.0)

# If another worker has the job, this outcome is fenced and changes nothing. If the lease only
# seemed to have expired, the job runs again and no attempt is lost.
LOST_CLAIM = Snooze(1.0, "lost the claim before the dot")
LEDGER_AWAY_S = 2.0  # the outcome itself waits for Postgres: by then it is back


@kind(
    "email.send",
    payload=Email,
    queue="template",
    max_attempts=8,
    timeout_s=TIMEOUT_S,
    backoff=Backoff(schedule_s=RETRIES_S),
    lane=lambda payload: dependence.on_relay(payload.get("relay", relays.DEFAULT)),
    requires={"relay": lambda name, settings: relays.require_known(settings, name)},
    hears_out=True,
)
async def send(payload: Email, context: Context) -> Outcome:
    """Send one mail: to, cc and bcc, text, html, attachments, templates; through any relay.

    Succeeded if the relay accepted every recipient's message (suppressed ones aside).
    """
    try:
        relay = relays.find(context.settings, payload.relay)
        policy = _policy(payload, relay)
        email, template = await content.filled(payload, context)
    except (SettingsError, PayloadError, RenderError) as error:
        return Failed(str(error))
    except content.JobGone:
        return LOST_CLAIM
    except LedgerUnavailable as error:
        return Snooze(LEDGER_AWAY_S, error.sentence)
    try:
        return await _send(email, relay=relay, policy=policy, template=template, context=context)
    except LedgerUnavailable as error:
        # Neither our fault nor the email's. What was recorded stands; the rest is retried.
        return Snooze(LEDGER_AWAY_S, error.sentence)


async def _send(
    email: Email, *, relay: Relay, policy: Policy, template: str | None, context: Context
) -> Outcome:
    ledger = message_writer.of(context.database)
    opened = await ledger.open(Opening(_preparation(email, context), relay.login))
    if opened.relay.is_stopped:
        return outcome.stopped(relay, opened.relay.reason)
    if opened.is_blocked:
        return outcome.backing_off(
            relay, backoff_s=opened.relay.backoff_s, reason=opened.relay.reason
        )
    if opened.rows is None:
        return LOST_CLAIM
    delivery = Delivery(
        relay=relay,
        policy=policy,
        writer=ledger,
        still_owned=context.still_owned,
        is_last=context.tries_left == 0,
    )
    composed = Composer(email, relay=relay, policy=policy, first=opened.rows[0])
    results = await _deliver_all(delivery, composed, opened.rows)
    if any(settlement.state is None for settlement in results):
        return LOST_CLAIM
    backoff_s = await _tell_of(relay, results, ledger=ledger, context=context)
    if opened.relay.backoff_step and any(_is_accepted(s) for s in results):
        await ledger.recover(relay, tenant=context.tenant)
    return outcome.of_job(results, relay=relay, backoff_s=backoff_s, template=template)


async def _deliver_all(
    delivery: Delivery, composed: Composer, rows: Sequence[MessageRow]
) -> list[MessageResult]:
    """Every message settled, by an earlier attempt or now; several go out side by side."""
    if len(rows) == 1:
        return [await _deliver(delivery, composed, rows[0])]
    tasks = [asyncio.create_task(_deliver(delivery, composed, row)) for row in rows]
    try:
        await asyncio.gather(*tasks, return_exceptions=True)
    except asyncio.CancelledError:
        # Cancelled; if every message was past its dot the job is done nevertheless.
        if any(task.cancelled() for task in tasks):
            raise
    return [task.result() for task in tasks]


async def _deliver(delivery: Delivery, composed: Composer, row: MessageRow) -> MessageResult:
    if row.state not in (MessageState.SENDING, MessageState.DOT_SENT):
        return MessageResult(row, None, row.state, reason=row.reason)
    relay = delivery.relay
    doubtful = resume(row, policy=delivery.policy, window_s=relay.idempotency_window_s)
    if doubtful is None:
        return await delivery.deliver(row, composed.addressed_to(row))
    if doubtful.mark is not None and not await delivery.writer.mark(doubtful.mark):
        return MessageResult(row, replies.NotOurs(), None)
    return doubtful


async def _tell_of(
    relay: Relay, results: Sequence[MessageResult], *, ledger: MessageWriter, context: Context
) -> float:
    """Record the relay's state; returns for how long to back off, in seconds."""
    for settlement in results:
        if isinstance(settlement.result, replies.LoginRefused):
            await ledger.stop(relay, tenant=context.tenant, reason=settlement.result.reply.text)
            return 0.0
    for settlement in results:
        if isinstance(settlement.result, (replies.HostBackoff, replies.Unreachable)):
            return await ledger.back_off(
                relay, tenant=context.tenant, reason=settlement.reason or "it is busy"
            )
    return 0.0


def _is_accepted(settlement: MessageResult) -> bool:
    return isinstance(settlement.result, replies.Accepted)


def _policy(email: Email, relay: Relay) -> Policy:
    policy = email.policy or relay.policy
    if policy == "idempotency_header" and not relay.idempotency_header:
        sentence = f"The relay {relay.name!r} has no idempotency header."
        raise PayloadError(sentence, remedy="Choose another policy.")
    return policy


def _preparation(email: Email, context: Context) -> Preparation:
    seen: dict[str, Recipient] = {}  # one message per address, however often it is listed
    for role, boxes in (("to", email.to), ("cc", email.cc), ("bcc", email.bcc)):
        for box in boxes:
            seen.setdefault(canonical(box.address), Recipient(box.address, role))
    return Preparation(
        tenant=context.tenant,
        job_id=context.job_id,
        attempt=context.attempt,
        relay=email.relay,
        message_id=composer.message_id(context.job_id, email.from_.domain),
        recipients=tuple(seen.values()),
    )
