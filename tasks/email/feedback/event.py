"""What a mail provider reports of one message to one recipient, whichever provider it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class Kind(StrEnum):
    """What happened."""

    DELIVERED = "delivered"
    BOUNCED = "bounced"
    DEFERRED = "deferred"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    OPENED = "opened"  # or clicked: reported, and not acted upon


class Permanence(StrEnum):
    """Whether the provider holds a bounce for final."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    UNDETERMINED = "undetermined"


class Cause(StrEnum):
    """What the provider blames, where it says so in words of its own."""

    ADDRESS = "address"
    MAILBOX_FULL = "mailbox_full"
    POLICY = "policy"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one message at one recipient.

    `id` is the same whenever the provider tells it again. `relais_id` is our message's id where the
    mail carried it (metadata.header); `message_id` the Message-ID header; `provider_message_id` the
    provider's own name for the message. `status`: an enhanced code (RFC 3463).
    """

    provider: str
    id: str
    kind: Kind
    recipient: str | None = None
    permanence: Permanence | None = None
    cause: Cause | None = None
    status: str | None = None
    reason: str | None = None
    at: datetime | None = None
    message_id: str | None = None
    relais_id: UUID | None = None
    provider_message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One request of a provider, proven to come from it.

    `replay_id` is the same when the request comes again: whoever has seen it may answer 200 and do
    nothing. `confirm_url`: SNS asks whether it may send; a GET there says yes. `ignored`: events of
    kinds that nothing here is interested in.
    """

    events: tuple[Event, ...]
    replay_id: str
    confirm_url: str | None = None
    ignored: int = 0
