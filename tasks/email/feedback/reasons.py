"""What enhanced status codes (RFC 3463, 7505, 7293, the IANA registry) and common words mean.

The rule behind the table: an address is condemned at once only where its host says that it does
not exist. What may pass is counted; what is about us, our mail or our domain is not its fault.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Category(StrEnum):
    """What a report comes down to."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    HARD_BOUNCE = "hard_bounce"
    SOFT_BOUNCE = "soft_bounce"
    MAILBOX_FULL = "mailbox_full"
    POLICY = "policy"
    COMPLAINT = "complaint"
    UNSUBSCRIBED = "unsubscribed"
    IGNORED = "ignored"
    UNKNOWN = "unknown"


Reason = tuple[Category, str]

# By subject and detail; the class only says whether the host will try again.
CODES: dict[str, Reason] = {
    "1.1": (Category.HARD_BOUNCE, "the mailbox does not exist"),
    "1.2": (Category.SOFT_BOUNCE, "the domain was not found, which a mistake in its DNS can cause"),
    "1.3": (Category.HARD_BOUNCE, "no address can be spelled like that"),
    "1.4": (Category.SOFT_BOUNCE, "the address is ambiguous at its host"),
    "1.6": (Category.HARD_BOUNCE, "the mailbox has moved and left no new address"),
    "1.7": (Category.POLICY, "the host does not like the syntax of our sender address"),
    "1.8": (Category.POLICY, "the host does not find the domain of our sender address"),
    "1.9": (Category.POLICY, "the message went through a gateway that does not forward"),
    "1.10": (Category.HARD_BOUNCE, "the recipient does not exist, or its domain takes no mail"),
    "2.1": (Category.SOFT_BOUNCE, "the mailbox is disabled, which may be for a while only"),
    "2.2": (Category.MAILBOX_FULL, "the mailbox is full"),
    "2.3": (Category.POLICY, "the message is larger than the mailbox takes"),
    "2.4": (Category.SOFT_BOUNCE, "the mailing list could not be expanded"),
    "3.1": (Category.SOFT_BOUNCE, "the host has no room for mail"),
    "3.2": (Category.SOFT_BOUNCE, "the host takes no mail at present"),
    "3.3": (Category.POLICY, "the host lacks a feature that the message needs"),
    "3.4": (Category.POLICY, "the message is larger than the host takes"),
    "3.5": (Category.SOFT_BOUNCE, "the host is badly configured"),
    "4.1": (Category.SOFT_BOUNCE, "the host did not answer, or did not take the recipient"),
    "4.2": (Category.SOFT_BOUNCE, "the connection to the host was bad"),
    "4.3": (Category.SOFT_BOUNCE, "a directory that the host asks did not answer"),
    "4.4": (Category.SOFT_BOUNCE, "no way to the host was found"),
    "4.5": (Category.SOFT_BOUNCE, "the host was congested"),
    "4.6": (Category.SOFT_BOUNCE, "the message went in a circle"),
    "4.7": (Category.SOFT_BOUNCE, "it took too long to deliver"),
    "4.14": (Category.SOFT_BOUNCE, "the message went in a circle"),
    "4.310": (Category.SOFT_BOUNCE, "the domain was not found, which a DNS mistake can cause"),
    "7.17": (Category.HARD_BOUNCE, "the mailbox belongs to somebody else now (RFC 7293)"),
    "7.18": (Category.HARD_BOUNCE, "the domain belongs to somebody else now (RFC 7293)"),
    "7.20": (Category.POLICY, "the mail has no DKIM signature that counts (RFC 7372)"),
    "7.23": (Category.POLICY, "SPF does not allow our host (RFC 7372)"),
    "7.25": (Category.POLICY, "our host has no matching name in DNS (RFC 7372)"),
    "7.26": (Category.POLICY, "the mail failed several checks of authenticity (RFC 7372)"),
    "7.27": (Category.POLICY, "the domain of our sender address takes no mail (RFC 7505)"),
    "7.28": (Category.POLICY, "the host was sent too much mail"),
}

# Where the detail is not in the table: what the subject as a whole is about. The missing ones
# (0: other, 5: the conversation) say too little without the words beside the code.
SUBJECTS: dict[str, Reason] = {
    "3": (Category.SOFT_BOUNCE, "the host had trouble of its own"),
    "4": (Category.SOFT_BOUNCE, "the host was not reached"),
    "6": (Category.POLICY, "the host does not take the content or its encoding"),
    "7": (Category.POLICY, "the host refuses it for reasons of security or policy"),
}

# Codes that programs write for want of a better one: words are heard first.
VAGUE = {"0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "4.1", "4.7"}

_BLOCKED = re.compile(
    r"spam|blacklist|black list|block ?list|blocked|dnsbl|\brbl\b|reputation|\bdmarc\b|\bspf\b|"
    r"\bdkim\b|unsolicited|poor history|too many (?:messages|connections)|rate ?limit|throttl|"
    r"\bsender (?:address|domain|verif\w+|rejected|denied)|"
    r"greylist|policy|not allowed to send|relay(?:ing)? (?:access )?denied|content rejected|virus",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"mailbox (?:is |was )?(?:over ?quota|full)|over ?quota|quota (?:exceeded|is full)|"
    r"exceed\w* (?:\w+ ){0,3}quota|quotaexceeded|out of storage|storage (?:limit|exceeded|space)|"
    r"inbox is full|(?:mailbox|user|account) (?:\w+ ){0,3}(?:full|too large)",
    re.IGNORECASE,
)
_NO_SUCH = re.compile(
    r"(?:no such|unknown|invalid) (?:user|recipient|mailbox|address|account)|"
    r"(?:user|recipient|mailbox|address|account|person) (?:\w+ ){0,3}(?:unknown|not found|"
    r"does not exist|doesn.t exist|not recognized|no longer exists?|not known)|"
    r"recipient name is not recognized|e-?mail account does not exist|no mailbox here|"
    r"user doesn.t have|address couldn.t be found|recip(?:ient)?notfound|"
    r"wasn.t found at|addressee unknown|not a valid (?:mailbox|recipient|user)",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"timed? ?out|connection (?:refused|reset)|try (?:again )?later|temporar|no route|"
    r"host (?:or domain name )?not found|unable to find mx|no mx|domain not found|"
    r"name service error|mailbox (?:is )?(?:disabled|inactive|unavailable|suspended|busy)|"
    r"(?:account|user) (?:\w+ ){0,2}(?:disabled|inactive|suspended)|could not be reached|"
    r"access denied",
    re.IGNORECASE,
)
_ADDRESSES = re.compile(r"[^\s<>@]{0,200}@[^\s<>]{0,200}")

WORDS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (_BLOCKED, (Category.POLICY, "the host's words are about us, blocking or policy")),
    (_FULL, (Category.MAILBOX_FULL, "the host's words say that the mailbox is full")),
    (_NO_SUCH, (Category.HARD_BOUNCE, "the host's words say that there is no such mailbox")),
    (_PASSING, (Category.SOFT_BOUNCE, "the host's words are about trouble that may pass")),
)


def of_code(status: str | None) -> Reason | None:
    """What an enhanced code means; None where it is not known, or too vague."""
    if status is None:
        return None
    _, _, detail = status.partition(".")
    if detail in VAGUE:
        return None
    return CODES.get(detail) or SUBJECTS.get(detail.partition(".")[0])


def of_vague_code(status: str | None) -> Reason | None:
    """The same for the codes in VAGUE, once the words have not helped."""
    if status is None:
        return None
    _, _, detail = status.partition(".")
    return CODES.get(detail) or SUBJECTS.get(detail.partition(".")[0])


def of_words(text: str | None) -> Reason | None:
    """What a diagnostic text means, addresses in it left aside; None: nothing known here."""
    words = _ADDRESSES.sub(" ", (text or "")[:1_000])
    return next((reason for pattern, reason in WORDS if pattern.search(words)), None)
