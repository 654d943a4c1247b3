"""From a relay's reply to the state of each message, and from there to the job's outcome.

An unanswered dot leaves a doubt: the relay may have the message. Only a 250 removes it; a message
in doubt that is refused or runs out of attempts ends as `unknown`, never as `failed`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ledger.messages import Mark
from ledger.models.mail import MessageState
from tasks.email import replies
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded, Unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.messages import MessageRow
    from tasks.email.relays import Policy, Relay
    from tasks.email.replies import Reply, Result
    from tasks.outcomes import Outcome

STOPPED_SNOOZE_S = 60.0
JITTER = 0.25  # of a wait, so that the jobs of one relay do not all return at once


@dataclass(frozen=True, slots=True)
class MessageResult:
    """A message after a try; `state` None: it is no longer ours."""

    row: MessageRow
    result: Result | None
    state: MessageState | None
    mark: Mark | None = None
    reason: str | None = None


def settle(row: MessageRow, result: Result, *, policy: Policy, is_last: bool) -> MessageResult:
    """What `result` means for the message; the mark is still to be written."""
    in_doubt = row.state is MessageState.DOT_SENT
    state, reason = _state(result, policy=policy, in_doubt=in_doubt, is_last=is_last)
    if state is None:
        return MessageResult(row, result, None)
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
    return MessageResult(row, result, state, mark, reason)


def resume(row: MessageRow, *, policy: Policy, window_s: float) -> MessageResult | None:
    """What to do with a row that an earlier attempt left in `dot_sent`; None: send it again."""
    if row.state is not MessageState.DOT_SENT or policy == "at_least_once":
        return None
    age_s = row.dot_age_s if row.dot_age_s is not None else window_s
    if policy == "idempotency_header" and age_s < window_s:
        return None
    # The attempt that sent it may have ended between the relay's reply and its mark.
    reason = (
        "no reply to the dot was recorded, and the window for sending again has closed"
        if policy == "idempotency_header"
        else "no reply to the dot was recorded; sending again could deliver twice"
    )
    mark = Mark(row.id, row.attempt, MessageState.UNKNOWN, reason=reason)
    return MessageResult(row, None, MessageState.UNKNOWN, mark, reason)


def _state(  # noqa: C901 - one case for each result, in the order in which they occur
    result: Result, *, policy: Policy, in_doubt: bool, is_last: bool
) -> tuple[MessageState | None, str | None]:
    match result:
        case replies.NotOurs():
            return None, None
        case replies.Accepted():
            return MessageState.SENT, None
        case replies.Refused(reply=reply):
            return _over(in_doubt=in_doubt), reply.text
        case replies.Unreachable(reason=reason) | replies.Crowded(reason=reason):
            return _untried(in_doubt=in_doubt), reason
        case replies.LoginRefused(reply=reply):
            return _untried(in_doubt=in_doubt), reply.text
        case replies.HostBackoff(reply=reply, phase=replies.Phase.CONNECT):
            return _untried(in_doubt=in_doubt), reply.text
        case replies.HostBackoff(reply=reply) | replies.Deferred(reply=reply):
            return _later(reply.text, in_doubt=in_doubt, is_last=is_last)
        case replies.Lost(reason=reason) if result.before_dot:
            words = f"connection lost at {result.phase}: {reason}"
            return _later(words, in_doubt=in_doubt, is_last=is_last)
        case replies.Lost(reason=reason):
            words = f"no clear reply to the dot: {reason}"
            if policy == "at_most_once" or is_last:
                return MessageState.UNKNOWN, words
            return MessageState.DOT_SENT, words


def _later(reason: str, *, in_doubt: bool, is_last: bool) -> tuple[MessageState, str]:
    if is_last:
        return _over(in_doubt=in_doubt), f"no attempts left: {reason}"
    return (MessageState.DOT_SENT if in_doubt else MessageState.DEFERRED), reason


def _over(*, in_doubt: bool) -> MessageState:
    return MessageState.UNKNOWN if in_doubt else MessageState.FAILED


def _untried(*, in_doubt: bool) -> MessageState:
    return MessageState.DOT_SENT if in_doubt else MessageState.PENDING


def of_job(
    results: Sequence[MessageResult],
    *,
    relay: Relay,
    backoff_s: float,
    template: str | None = None,
) -> Outcome:
    """The outcome of an attempt whose messages ended as `results`.

    `backoff_s`: how long to back off from the relay. `template`: what the mail was made from
    (`name@3`).
    """
    counts = _counts(results)
    waiting = [s for s in results if s.state in _WAITING]
    if not waiting:
        return _final(results, counts, template)
    tried = [s for s in waiting if not _is_relays_fault(s)]
    sentence = f"{_sentence(counts)}: {_first_reason(tried or waiting)}"
    if tried:
        return RetryLater(sentence, _delay_s(tried, relay=relay, backoff_s=backoff_s))
    if any(isinstance(s.result, replies.LoginRefused) for s in waiting):
        return stopped(relay, _first_reason(waiting))
    return Snooze(_jittered(max(backoff_s, relay.backoff_s)), sentence)


def stopped(relay: Relay, reason: str | None) -> Snooze:
    """The relay refuses our login: check now and then whether it has been resumed."""
    words = f"the relay {relay.name} is stopped: {reason or 'it refused the login'}"
    return Snooze(_jittered(STOPPED_SNOOZE_S), words)


def backing_off(relay: Relay, *, backoff_s: float, reason: str | None) -> Snooze:
    """The relay asked us to back off."""
    words = f"the relay {relay.name} is backing off: {reason or 'it is busy'}"
    return Snooze(_jittered(backoff_s), words)


_WAITING = {MessageState.PENDING, MessageState.DEFERRED, MessageState.DOT_SENT}


def _is_relays_fault(message: MessageResult) -> bool:
    """Whether nothing was tried for this message: a try that costs no attempt."""
    result = message.result
    trouble = (replies.Unreachable, replies.Crowded, replies.LoginRefused)
    return isinstance(result, trouble) or (
        isinstance(result, replies.HostBackoff) and result.phase is replies.Phase.CONNECT
    )


def _delay_s(tried: Sequence[MessageResult], *, relay: Relay, backoff_s: float) -> float | None:
    greylisted = any(
        isinstance(s.result, replies.Deferred) and s.result.is_greylisting for s in tried
    )
    delay_s = max(backoff_s, relay.greylist_s if greylisted else 0.0)
    return _jittered(delay_s) if delay_s else None


def _final(
    results: Sequence[MessageResult], counts: dict[str, int], template: str | None
) -> Outcome:
    result = _result(results, counts) | ({"template": template} if template else {})
    total = len(results)
    if unknown := counts.get("unknown"):
        bad = [s for s in results if s.state is MessageState.UNKNOWN]
        return Unknown(f"{unknown} of {total} messages unknown: {_first_reason(bad)}", result)
    if failed := counts.get("failed"):
        bad = [s for s in results if s.state is MessageState.FAILED]
        return Failed(
            f"{failed} of {total} recipients refused: {_first_reason(bad)}", result=result
        )
    if counts.get("suppressed") == total:
        return Failed("all recipients are suppressed", result=result)
    return Succeeded(result)


def _result(results: Sequence[MessageResult], counts: dict[str, int]) -> dict[str, Any]:
    first = results[0].row
    return {
        "message_id": first.message_id,
        "relay": first.relay,
        **counts,
        "messages": [_message(message) for message in results],
    }


def _message(message: MessageResult) -> dict[str, Any]:
    row, mark = message.row, message.mark
    reply = mark.reply if mark and mark.reply else row.reply
    entry = {
        "recipient": row.recipient,
        "role": row.role,
        "state": message.state.value if message.state else None,
        "reply": reply,
        "reason": message.reason if message.reason != reply else None,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _counts(results: Sequence[MessageResult]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for message in results:
        if message.state is not None:
            counts[message.state.value] = counts.get(message.state.value, 0) + 1
    return counts


def _sentence(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))


def _first_reason(results: Sequence[MessageResult]) -> str:
    return next((s.reason for s in results if s.reason), "no reason given")


def _jittered(seconds: float) -> float:
    return seconds * (1 + random.random() * JITTER)  # noqa: S311 - spreads load, guards nothing
