"""From the messages of a job to the job's outcome."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ledger.models.mail import MessageState
from tasks.email import replies
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded, Unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.email.relays import Relay
    from tasks.email.settlement import Settlement
    from tasks.outcomes import Outcome

STOPPED_SNOOZE_S = 60.0
JITTER = 0.25  # of a wait, so that the jobs of one relay do not come back all at once


def outcome(settlements: Sequence[Settlement], *, relay: Relay, backoff_s: float) -> Outcome:
    """The outcome of an attempt whose messages ended as `settlements`.

    `backoff_s`: how long the relay wants to be left alone from now.
    """
    counts = _counts(settlements)
    waiting = [s for s in settlements if s.state in _WAITING]
    if not waiting:
        return _final(settlements, counts)
    tried = [s for s in waiting if not _is_relays_fault(s)]
    sentence = f"{_sentence(counts)}: {_first_reason(tried or waiting)}"
    if tried:
        return RetryLater(sentence, _delay_s(tried, relay=relay, backoff_s=backoff_s))
    if any(isinstance(s.result, replies.LoginRefused) for s in waiting):
        return stopped(relay, _first_reason(waiting))
    return Snooze(_jittered(max(backoff_s, relay.backoff_s)), sentence)


def stopped(relay: Relay, reason: str | None) -> Snooze:
    """The relay refuses our login: look again now and then whether someone has resumed it."""
    words = f"the relay {relay.name} is stopped: {reason or 'it refused the login'}"
    return Snooze(_jittered(STOPPED_SNOOZE_S), words)


def backing_off(relay: Relay, *, backoff_s: float, reason: str | None) -> Snooze:
    """The relay asked to be left alone."""
    words = f"the relay {relay.name} is left alone for a while: {reason or 'it is busy'}"
    return Snooze(_jittered(backoff_s), words)


_WAITING = {MessageState.PENDING, MessageState.DEFERRED, MessageState.DOT_SENT}


def _is_relays_fault(settlement: Settlement) -> bool:
    """Whether nothing was tried on this message: a try that costs no attempt."""
    result = settlement.result
    trouble = (replies.Unreachable, replies.Crowded, replies.LoginRefused)
    return isinstance(result, trouble) or (
        isinstance(result, replies.HostBackoff) and result.phase is replies.Phase.CONNECT
    )


def _delay_s(tried: Sequence[Settlement], *, relay: Relay, backoff_s: float) -> float | None:
    greylisted = any(
        isinstance(s.result, replies.Deferred) and s.result.is_greylisting for s in tried
    )
    delay_s = max(backoff_s, relay.greylist_s if greylisted else 0.0)
    return _jittered(delay_s) if delay_s else None


def _final(settlements: Sequence[Settlement], counts: dict[str, int]) -> Outcome:
    result = _result(settlements, counts)
    total = len(settlements)
    if unknown := counts.get("unknown"):
        bad = [s for s in settlements if s.state is MessageState.UNKNOWN]
        return Unknown(f"{unknown} of {total} messages unknown: {_first_reason(bad)}", result)
    if failed := counts.get("failed"):
        bad = [s for s in settlements if s.state is MessageState.FAILED]
        return Failed(
            f"{failed} of {total} recipients refused: {_first_reason(bad)}", result=result
        )
    if counts.get("suppressed") == total:
        return Failed("all recipients are suppressed", result=result)
    return Succeeded(result)


def _result(settlements: Sequence[Settlement], counts: dict[str, int]) -> dict[str, Any]:
    first = settlements[0].row
    return {
        "message_id": first.message_id,
        "relay": first.relay,
        **counts,
        "messages": [_message(settlement) for settlement in settlements],
    }


def _message(settlement: Settlement) -> dict[str, Any]:
    row, mark = settlement.row, settlement.mark
    reply = mark.reply if mark and mark.reply else row.reply
    entry = {
        "recipient": row.recipient,
        "role": row.role,
        "state": settlement.state.value if settlement.state else None,
        "reply": reply,
        "reason": settlement.reason if settlement.reason != reply else None,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _counts(settlements: Sequence[Settlement]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for settlement in settlements:
        if settlement.state is not None:
            counts[settlement.state.value] = counts.get(settlement.state.value, 0) + 1
    return counts


def _sentence(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))


def _first_reason(settlements: Sequence[Settlement]) -> str:
    return next((s.reason for s in settlements if s.reason), "no reason given")


def _jittered(seconds: float) -> float:
    return seconds * (1 + random.random() * JITTER)  # noqa: S311 - spreads load, guards nothing
