"""Complaints that come as mails: feedback reports after RFC 5965, and Microsoft's without a report.

`read` never raises and takes bounded time. Providers often black out the recipient (RFC 6590): then
only the return path's token or the Message-ID says whose complaint it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from tasks.email.feedback import mail_reader, original, report, verp
from tasks.email.feedback.mail_reader import Headers, Part

RECIPIENTS_MAX = 100

_BLACKED_OUT = re.compile(
    r"<?\[?(?:redacted|removed|hidden|undisclosed|anonymous|x{3,}|\*+|\.{3,})[^@\s]{0,64}(?:@.*)?>?",
    re.IGNORECASE,
)
_MICROSOFT_FIELD = "x-hmxmroriginalrecipient"


class FeedbackType(StrEnum):
    """What is reported (RFC 5965 section 7.3, RFC 6591, and what the registry added)."""

    ABUSE = "abuse"
    FRAUD = "fraud"
    VIRUS = "virus"
    OPT_OUT = "opt-out"
    OPT_OUT_LIST = "opt-out-list"
    MISCATEGORIZED = "miscategorized"
    NOT_SPAM = "not-spam"
    AUTH_FAILURE = "auth-failure"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Complaint:
    """Somebody's opinion of one of our mails.

    `recipients` is empty where they are blacked out. `at`: when the mail had arrived, as reported.
    Without a `token` that `verp.read` accepts nothing here is proven.
    """

    type: FeedbackType
    recipients: tuple[str, ...] = ()
    is_redacted: bool = False
    message_id: str | None = None
    token: str | None = None
    list_unsubscribe: str | None = None  # of the returned mail: its link names the message, too
    source_ip: str | None = None
    reported_domain: str | None = None
    user_agent: str | None = None
    at: datetime | None = None
    incidents: int = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """The complaint in a mail; None: there is none. `why` says how it was read, or why not."""

    complaint: Complaint | None
    why: str


def read(raw: bytes, *, envelope_to: str | None = None) -> Reading:
    """What `raw` complains about; `envelope_to` as for `dsn.read`."""
    mail = mail_reader.parse(raw)
    parts = list(mail.walk())
    body = next((p for p in parts if p.content_type == "message/feedback-report"), None)
    if body is not None:
        fields, _ = mail_reader.read_headers(body.decoded().lstrip(b"\r\n"))
        if fields.get("feedback-type"):
            return Reading(_of_report(fields, mail, envelope_to), "a feedback report (RFC 5965)")
        return Reading(None, "its feedback report names no Feedback-Type")
    headers = original.returned(mail)
    if headers is not None and headers.get(_MICROSOFT_FIELD):
        complaint = _complaint(
            FeedbackType.ABUSE,
            headers.all(_MICROSOFT_FIELD),
            mail=mail,
            envelope_to=envelope_to,
        )
        return Reading(complaint, "a complaint of Microsoft's junk mail reporting program")
    return Reading(None, "it is no complaint: it has no feedback report")


def _of_report(fields: Headers, mail: Part, envelope_to: str | None) -> Complaint:
    stated = fields.get("feedback-type").strip().lower()
    known = stated in {kind.value for kind in FeedbackType}
    incidents = fields.get("incidents").strip()
    return _complaint(
        FeedbackType(stated) if known else FeedbackType.OTHER,
        fields.all("original-rcpt-to", "removal-recipient"),
        mail=mail,
        envelope_to=envelope_to,
        fields=fields,
        incidents=int(incidents) if re.fullmatch(r"[0-9]{1,9}", incidents) else 1,
    )


def _complaint(
    kind: FeedbackType,
    named: list[str],
    *,
    mail: Part,
    envelope_to: str | None,
    fields: Headers | None = None,
    incidents: int = 1,
) -> Complaint:
    fields = fields or Headers(())
    found = original.find(mail, envelope_to=envelope_to)
    returned = found.headers or Headers(())
    addresses = [value.strip().strip("<>") for value in named[:RECIPIENTS_MAX]]
    clear = [a for a in addresses if _is_clear(a)]
    return Complaint(
        type=kind,
        recipients=tuple(dict.fromkeys(clear)),
        is_redacted=len(clear) < len(addresses) or not addresses,
        message_id=found.message_id,
        token=verp.token_in(fields.get("original-mail-from")) or found.token,
        list_unsubscribe=returned.get("list-unsubscribe") or None,
        source_ip=report.one_line(fields.get("source-ip")),
        reported_domain=report.one_line(fields.get("reported-domain")),
        user_agent=report.one_line(fields.get("user-agent")),
        at=_moment(fields.get("arrival-date") or fields.get("received-date")),
        incidents=max(1, incidents),
    )


def _is_clear(address: str) -> bool:
    return (
        0 < len(address) <= report.ADDRESS_MAX
        and not _BLACKED_OUT.fullmatch(address)
        and "@" in address[1:-1]
        and not any(c.isspace() for c in address)
    )


def _moment(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value[:100])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
