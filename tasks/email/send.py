"""The kind `email.send`: one mail to up to fifty recipients."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ledger.messages import Preparation, Recipient
from ledger.models.mail import MessageState
from runtime.errors import SettingsError
from tasks.email import books, mime, relays, replies, smtp, verdict
from tasks.email.books import Opening
from tasks.email.delivery import Delivery, Mail
from tasks.email.payload import Email
from tasks.email.settlement import Settlement, resume
from tasks.errors import PayloadError, RenderError
from tasks.kinds import Backoff, kind
from tasks.outcomes import Cancelled, Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.messages import MessageRow
    from tasks.context import Context
    from tasks.email.books import Books
    from tasks.email.relays import Policy, Relay
    from tasks.outcomes import Outcome

# A relay may take ten minutes to answer the dot (RFC 5321), and that must not be cut short.
TIMEOUT_S = 900.0
# Most trouble is over in a minute; a relay that is down overnight must not cost the mail.
RETRIES_S = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 43_200.0)


@kind(
    "email.send",
    payload=Email,
    queue="template",
    max_attempts=8,
    timeout_s=TIMEOUT_S,
    backoff=Backoff(schedule_s=RETRIES_S),
)
async def send(payload: Email, context: Context) -> Outcome:
    """Send one mail: to, cc and bcc, text, html, attachments, templates; through any relay.

    Succeeded where every recipient's message was accepted by the relay (suppressed ones aside).
    """
    try:
        relay = relays.find(context.settings, payload.relay)
        policy = _policy(payload, relay)
        email = await _rendered(payload, context)
    except (SettingsError, PayloadError, RenderError) as error:
        return Failed(str(error))
    ledger = books.of(context.database)
    opened = await ledger.open(Opening(_preparation(email, context), relay.login))
    if opened.is_blocked:
        return _not_now(opened, relay)
    if opened.rows is None:
        return Cancelled("lost the claim")
    try:
        envelopes = _Envelopes(email, opened.rows[0])
        delivery = Delivery(
            relay=relay,
            policy=policy,
            books=ledger,
            still_owned=context.still_owned,
            is_last=context.tries_left == 0,
        )
        settlements = await _deliver_all(delivery, opened.rows, envelopes)
    except PayloadError as error:
        return Failed(str(error))
    if any(settlement.state is None for settlement in settlements):
        return Cancelled("lost the claim")
    backoff_s = await _tell_relay(ledger, relay, context.tenant, settlements)
    if opened.relay.backoff_step and any(_is_accepted(s) for s in settlements):
        await ledger.recover(relay, tenant=context.tenant)
    return verdict.outcome(settlements, relay=relay, backoff_s=backoff_s)
