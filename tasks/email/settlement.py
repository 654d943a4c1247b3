"""From what a relay said to what stands in the books.

An unanswered dot leaves a doubt: the relay may have the message. Only a 250 removes it; a message
in doubt that is refused or runs out of tries ends as `unknown`, never as `failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.messages import Mark
from ledger.models.mail import MessageState
from tasks.email import replies

if TYPE_CHECKING:
    from ledger.messages import MessageRow
    from tasks.email.relays import Policy
    from tasks.email.replies import Reply, Result


@dataclass(frozen=True, slots=True)
class Settlement:
    """A message after a try; `state` None: it is not ours any more."""

    row: MessageRow
    result: Result | None
    state: MessageState | None
    mark: Mark | None = None
    reason: str | None = None


def settle(row: MessageRow, result: Result, *, policy: Policy, is_last: bool) -> Settlement:
    """What `result` makes of the message; the mark is still to be written."""
    in_doubt = row.state is MessageState.DOT_SENT
    state, reason = _state(result, policy=policy, in_doubt=in_doubt, is_last=is_last)
    if state is None:
        return Settlement(row, result, None)
    reply: Reply | None = getattr(result, "reply", None)
    suppresses = isinstance(result, replies.Refused) and result.suppresses
    mark = Mark(
        id=row.id,
        attempt=row.attempt,
        state=state,
        reply_code=reply.code if reply else None,
        enhanced_code=reply.enhanced if reply else None,
        reply=reply.text if reply else None,
        reason=reason,
        suppress=(row.tenant, row.recipient) if suppresses else None,
    )
    return Settlement(row, result, state, mark, reason)


def resume(row: MessageRow, *, policy: Policy, window_s: float) -> Settlement | None:
    """What to do with a row that an earlier attempt left in `dot_sent`; None: send it again."""
    if row.state is not MessageState.DOT_SENT or policy == "at_least_once":
        return None
    age_s = row.dot_age_s if row.dot_age_s is not None else window_s
    if policy == "idempotency_header" and age_s < window_s:
        return None
    # The attempt that sent it may have ended between the relay's answer and its mark.
    reason = (
        "no answer to the dot was noted, and the window for sending again has closed"
        if policy == "idempotency_header"
        else "no answer to the dot was noted; sending again could deliver twice"
    )
    mark = Mark(row.id, row.attempt, MessageState.UNKNOWN, reason=reason)
    return Settlement(row, None, MessageState.UNKNOWN, mark, reason)


def _state(  # noqa: C901 - one case for each result, in the order of the way of a mail
    result: Result, *, policy: Policy, in_doubt: bool, is_last: bool
) -> tuple[MessageState | None, str | None]:
    match result:
        case replies.NotOurs():
            return None, None
        case replies.Accepted():
            return MessageState.SENT, None
        case replies.Refused(reply=reply):
            return _final(in_doubt=in_doubt), reply.text
        case replies.Unreachable(reason=reason) | replies.Crowded(reason=reason):
            return _untried(in_doubt=in_doubt), reason
        case replies.LoginRefused(reply=reply):
            return _untried(in_doubt=in_doubt), reply.text
        case replies.HostBackoff(reply=reply, phase=replies.Phase.CONNECT):
            return _untried(in_doubt=in_doubt), reply.text
        case replies.HostBackoff(reply=reply) | replies.Deferred(reply=reply):
            return _later(reply.text, in_doubt=in_doubt, is_last=is_last)
        case replies.Lost(reason=reason) if result.before_dot:
            words = f"lost at {result.phase}: {reason}"
            return _later(words, in_doubt=in_doubt, is_last=is_last)
        case replies.Lost(reason=reason):
            words = f"no clear answer to the dot: {reason}"
            if policy == "at_most_once" or is_last:
                return MessageState.UNKNOWN, words
            return MessageState.DOT_SENT, words


def _later(reason: str, *, in_doubt: bool, is_last: bool) -> tuple[MessageState, str]:
    if is_last:
        return _final(in_doubt=in_doubt), f"no try is left: {reason}"
    return (MessageState.DOT_SENT if in_doubt else MessageState.DEFERRED), reason


def _final(*, in_doubt: bool) -> MessageState:
    return MessageState.UNKNOWN if in_doubt else MessageState.FAILED


def _untried(*, in_doubt: bool) -> MessageState:
    return MessageState.DOT_SENT if in_doubt else MessageState.PENDING
