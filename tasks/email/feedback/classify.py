"""From a report, a complaint or an event to a decision about the address, with its reason.

Nothing here knows the database: how many soft bounces an address has had is told by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.email.feedback import reasons
from tasks.email.feedback.arf import Complaint, FeedbackType
from tasks.email.feedback.event import Cause, Event, Kind, Permanence
from tasks.email.feedback.reasons import Category, Reason
from tasks.email.feedback.report import Action, Report

SOFT_MAX = 5  # soft bounces without a delivery between them, then the address is suppressed


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about an address.

    `suppress`: do not write to it again. `counts`: this is one more soft bounce; a delivery sets
    the count to zero. `why` is a sentence for the person who asks.
    """

    category: Category
    suppress: bool
    counts: bool
    why: str
    status: str | None = None


_COUNTED = {Category.SOFT_BOUNCE, Category.MAILBOX_FULL}
_AT_ONCE = {Category.HARD_BOUNCE, Category.COMPLAINT, Category.UNSUBSCRIBED}
_CONSEQUENCES = {
    Category.DELIVERED: "nothing is to be done",
    Category.DEFERRED: "the mail system goes on trying",
    Category.HARD_BOUNCE: "the address is suppressed",
    Category.POLICY: "this is not the address's fault, so it is not suppressed",
    Category.COMPLAINT: "the address is suppressed",
    Category.UNSUBSCRIBED: "the address is suppressed",
    Category.IGNORED: "nothing is to be done",
    Category.UNKNOWN: "nothing is concluded from it",
}
_CAUSES: dict[Cause, Reason] = {
    Cause.ADDRESS: (Category.HARD_BOUNCE, "the provider says that the address is bad"),
    Cause.MAILBOX_FULL: (Category.MAILBOX_FULL, "the provider says that the mailbox is full"),
    Cause.POLICY: (Category.POLICY, "the provider says that the mail was blocked"),
    Cause.MESSAGE: (Category.POLICY, "the provider says that the message itself was refused"),
}
_PERMANENCES: dict[Permanence, Reason] = {
    Permanence.PERMANENT: (
        Category.HARD_BOUNCE,
        "the provider holds it for permanent, and nothing it quotes says otherwise",
    ),
    Permanence.TRANSIENT: (Category.SOFT_BOUNCE, "the provider holds it for passing"),
    Permanence.UNDETERMINED: (Category.UNKNOWN, "the provider does not know why"),
}
_OPINIONS: dict[FeedbackType, Reason] = {
    FeedbackType.OPT_OUT: (Category.UNSUBSCRIBED, "the recipient asked for no more mail"),
    FeedbackType.OPT_OUT_LIST: (Category.UNSUBSCRIBED, "the recipient asked for no more mail"),
    FeedbackType.NOT_SPAM: (Category.IGNORED, "the recipient says that the mail is no spam"),
    FeedbackType.AUTH_FAILURE: (
        Category.IGNORED,
        "a host reports that a mail in our name failed DKIM, SPF or DMARC",
    ),
}
_NO_CAUSE: Reason = (Category.UNKNOWN, "neither code nor words say why it was refused")


def of_report(report: Report, *, soft_bounces: int = 0, soft_max: int = SOFT_MAX) -> Decision:
    """The decision about a bounce; `soft_bounces` the address has had before this one."""
    match report.action:
        case Action.DELAYED:
            reason = (Category.DEFERRED, "it is not delivered yet")
        case Action.DELIVERED:
            reason = (Category.DELIVERED, "it was delivered")
        case Action.RELAYED:
            reason = (Category.DELIVERED, "it was passed to a host that reports nothing")
        case Action.EXPANDED:
            reason = (Category.DELIVERED, "it was delivered to a list, which sent it on")
        case Action.FAILED:
            reason = _failure(report.status, report.diagnostic) or _by_class(report.status)
    return _decision(reason, report.status, soft_bounces=soft_bounces, soft_max=soft_max)


def of_event(event: Event, *, soft_bounces: int = 0, soft_max: int = SOFT_MAX) -> Decision:
    """The decision about a provider's event; `soft_bounces` as for `of_report`."""
    match event.kind:
        case Kind.DELIVERED:
            reason = (Category.DELIVERED, f"{event.provider} delivered it")
        case Kind.DEFERRED:
            reason = (Category.DEFERRED, f"{event.provider} could not deliver it yet")
        case Kind.COMPLAINED:
            reason = (Category.COMPLAINT, "the recipient marked the mail as spam")
        case Kind.UNSUBSCRIBED:
            reason = (Category.UNSUBSCRIBED, "the recipient asked for no more mail")
        case Kind.OPENED:
            reason = (Category.IGNORED, "the mail was opened")
        case Kind.BOUNCED:
            reason = _of_bounce(event)
    return _decision(reason, event.status, soft_bounces=soft_bounces, soft_max=soft_max)


def of_complaint(complaint: Complaint) -> Decision:
    """The decision about a complaint."""
    reason = _OPINIONS.get(complaint.type)
    if reason is None:
        reason = (Category.COMPLAINT, f"the recipient complained ({complaint.type})")
    return _decision(reason, None)


def _of_bounce(event: Event) -> Reason:
    reason = _failure(event.status, event.reason)
    if reason is None and event.cause is not None:
        reason = _CAUSES[event.cause]
    if reason is None and event.permanence is not None:
        reason = _PERMANENCES[event.permanence]
    reason = reason or _by_class(event.status)
    if reason[0] is Category.HARD_BOUNCE and event.permanence is Permanence.TRANSIENT:
        return Category.SOFT_BOUNCE, f"{reason[1]}, but the provider holds it for passing"
    return reason


def _failure(status: str | None, text: str | None) -> Reason | None:
    """What a refusal means: an exact code first, then the words, then a vague code."""
    by_code, by_words = reasons.of_code(status), reasons.of_words(text)
    if by_code is None:
        reason = by_words or reasons.of_vague_code(status)
    elif (
        by_code[0] is Category.HARD_BOUNCE
        and by_words is not None
        and by_words[0] is Category.POLICY
    ):
        # Some hosts tell those whom they block that nobody is at home.
        return Category.POLICY, f"the code says that {by_code[1]}, but {by_words[1]}"
    else:
        reason = by_code
    if reason is not None and reason[0] is Category.HARD_BOUNCE and (status or "5")[0] == "4":
        return Category.SOFT_BOUNCE, f"{reason[1]}, but its code ({status}) is of the passing kind"
    return reason


def _by_class(status: str | None) -> Reason:
    if status is not None and status[0] == "4":
        return Category.SOFT_BOUNCE, "its code is of the passing kind"
    return _NO_CAUSE


def _decision(
    reason: Reason, status: str | None, *, soft_bounces: int = 0, soft_max: int = SOFT_MAX
) -> Decision:
    category, words = reason
    said = f"{words[0].upper()}{words[1:]}{f' ({status})' if status else ''}"
    counts = category in _COUNTED
    if not counts:
        why = f"{said}: {_CONSEQUENCES[category]}."
        return Decision(category, category in _AT_ONCE, counts, why, status)
    number = soft_bounces + 1
    suppress = number >= soft_max
    so = "the address is suppressed" if suppress else f"at {soft_max} the address is suppressed"
    why = f"{said}: soft bounce {number} in a row, {so}."
    return Decision(category, suppress, counts, why, status)
