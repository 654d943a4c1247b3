"""From a report, a complaint or an event to a decision about the address, with its reason.

Nothing here knows the database: how many soft bounces an address has had is told by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.email.feedback import reasons
from tasks.email.feedback.arf import Complaint, FeedbackType
from tasks.email.feedback.event import Cause, Event, Kind, Permanence
from tasks.email.feedback.reasons import Reason, Verdict
from tasks.email.feedback.report import Action, Report

SOFT_MAX = 5  # soft bounces without a delivery between them, then the address is suppressed


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about an address.

    `suppress`: do not write to it again. `counts`: this is one more soft bounce; a delivery sets
    the count to zero. `why` is a sentence for the person who asks.
    """

    verdict: Verdict
    suppress: bool
    counts: bool
    why: str
    status: str | None = None


_COUNTED = {Verdict.SOFT_BOUNCE, Verdict.MAILBOX_FULL}
_AT_ONCE = {Verdict.HARD_BOUNCE, Verdict.COMPLAINT, Verdict.UNSUBSCRIBED}
_CONSEQUENCES = {
    Verdict.DELIVERED: "nothing is to be done",
    Verdict.DEFERRED: "the mail system goes on trying",
    Verdict.HARD_BOUNCE: "the address is suppressed",
    Verdict.POLICY: "this is not the address's fault, so it is not suppressed",
    Verdict.COMPLAINT: "the address is suppressed",
    Verdict.UNSUBSCRIBED: "the address is suppressed",
    Verdict.IGNORED: "nothing is to be done",
    Verdict.UNKNOWN: "nothing is concluded from it",
}
_CAUSES: dict[Cause, Reason] = {
    Cause.ADDRESS: (Verdict.HARD_BOUNCE, "the provider says that the address is bad"),
    Cause.MAILBOX_FULL: (Verdict.MAILBOX_FULL, "the provider says that the mailbox is full"),
    Cause.POLICY: (Verdict.POLICY, "the provider says that the mail was blocked"),
    Cause.MESSAGE: (Verdict.POLICY, "the provider says that the message itself was refused"),
}
_PERMANENCES: dict[Permanence, Reason] = {
    Permanence.PERMANENT: (
        Verdict.HARD_BOUNCE,
        "the provider holds it for permanent, and nothing it quotes says otherwise",
    ),
    Permanence.TRANSIENT: (Verdict.SOFT_BOUNCE, "the provider holds it for passing"),
    Permanence.UNDETERMINED: (Verdict.UNKNOWN, "the provider does not know why"),
}
_OPINIONS: dict[FeedbackType, Reason] = {
    FeedbackType.OPT_OUT: (Verdict.UNSUBSCRIBED, "the recipient asked for no more mail"),
    FeedbackType.OPT_OUT_LIST: (Verdict.UNSUBSCRIBED, "the recipient asked for no more mail"),
    FeedbackType.NOT_SPAM: (Verdict.IGNORED, "the recipient says that the mail is no spam"),
    FeedbackType.AUTH_FAILURE: (
        Verdict.IGNORED,
        "a host reports that a mail in our name failed DKIM, SPF or DMARC",
    ),
}
_NO_CAUSE: Reason = (Verdict.UNKNOWN, "neither code nor words say why it was refused")


def of_report(report: Report, *, soft_bounces: int = 0, soft_max: int = SOFT_MAX) -> Decision:
    """The decision about a bounce; `soft_bounces` the address has had before this one."""
    match report.action:
        case Action.DELAYED:
            reason = (Verdict.DEFERRED, "it is not delivered yet")
        case Action.DELIVERED:
            reason = (Verdict.DELIVERED, "it was delivered")
        case Action.RELAYED:
            reason = (Verdict.DELIVERED, "it was passed to a host that reports nothing")
        case Action.EXPANDED:
            reason = (Verdict.DELIVERED, "it was delivered to a list, which sent it on")
        case Action.FAILED:
            reason = _failure(report.status, report.diagnostic) or _by_class(report.status)
    return _decision(reason, report.status, soft_bounces=soft_bounces, soft_max=soft_max)


def of_event(event: Event, *, soft_bounces: int = 0, soft_max: int = SOFT_MAX) -> Decision:
    """The decision about a provider's event; `soft_bounces` as for `of_report`."""
    match event.kind:
        case Kind.DELIVERED:
            reason = (Verdict.DELIVERED, f"{event.provider} delivered it")
        case Kind.DEFERRED:
            reason = (Verdict.DEFERRED, f"{event.provider} could not deliver it yet")
        case Kind.COMPLAINED:
            reason = (Verdict.COMPLAINT, "the recipient marked the mail as spam")
        case Kind.UNSUBSCRIBED:
            reason = (Verdict.UNSUBSCRIBED, "the recipient asked for no more mail")
        case Kind.OPENED:
            reason = (Verdict.IGNORED, "the mail was opened")
        case Kind.BOUNCED:
            reason = _of_bounce(event)
    return _decision(reason, event.status, soft_bounces=soft_bounces, soft_max=soft_max)


def of_complaint(complaint: Complaint) -> Decision:
    """The decision about a complaint."""
    reason = _OPINIONS.get(complaint.type)
    if reason is None:
        reason = (Verdict.COMPLAINT, f"the recipient complained ({complaint.type})")
    return _decision(reason, None)


def _of_bounce(event: Event) -> Reason:
    reason = _failure(event.status, event.reason)
    if reason is None and event.cause is not None:
        reason = _CAUSES[event.cause]
    if reason is None and event.permanence is not None:
        reason = _PERMANENCES[event.permanence]
    reason = reason or _by_class(event.status)
    if reason[0] is Verdict.HARD_BOUNCE and event.permanence is Permanence.TRANSIENT:
        return Verdict.SOFT_BOUNCE, f"{reason[1]}, but the provider holds it for passing"
    return reason


def _failure(status: str | None, text: str | None) -> Reason | None:
    """What a refusal means: an exact code first, then the words, then a vague code."""
    by_code, by_words = reasons.of_code(status), reasons.of_words(text)
    if by_code is None:
        reason = by_words or reasons.of_vague_code(status)
    elif (
        by_code[0] is Verdict.HARD_BOUNCE and by_words is not None and by_words[0] is Verdict.POLICY
    ):
        # Some hosts tell those whom they block that nobody is at home.
        return Verdict.POLICY, f"the code says that {by_code[1]}, but {by_words[1]}"
    else:
        reason = by_code
    if reason is not None and reason[0] is Verdict.HARD_BOUNCE and (status or "5")[0] == "4":
        return Verdict.SOFT_BOUNCE, f"{reason[1]}, but its code ({status}) is of the passing kind"
    return reason


def _by_class(status: str | None) -> Reason:
    if status is not None and status[0] == "4":
        return Verdict.SOFT_BOUNCE, "its code is of the passing kind"
    return _NO_CAUSE


def _decision(
    reason: Reason, status: str | None, *, soft_bounces: int = 0, soft_max: int = SOFT_MAX
) -> Decision:
    verdict, words = reason
    said = f"{words[0].upper()}{words[1:]}{f' ({status})' if status else ''}"
    counts = verdict in _COUNTED
    if not counts:
        why = f"{said}: {_CONSEQUENCES[verdict]}."
        return Decision(verdict, verdict in _AT_ONCE, counts, why, status)
    number = soft_bounces + 1
    suppress = number >= soft_max
    so = "the address is suppressed" if suppress else f"at {soft_max} the address is suppressed"
    why = f"{said}: soft bounce {number} in a row, {so}."
    return Decision(verdict, suppress, counts, why, status)
