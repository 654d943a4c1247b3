"""What became of a mail at one recipient, as some mail system reports it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

TEXT_MAX = 500  # characters of a diagnostic that are kept
ADDRESS_MAX = 320
REPORTS_MAX = 100  # of one mail

STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
_BLANKS = re.compile(r"\s+")


class Action(StrEnum):
    """What was done, in the words of RFC 3464 section 2.3.3."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class Report:
    """One recipient of one mail.

    `status` is an enhanced code (RFC 3463). Without a `token` that `verp.read` accepts nothing here
    is proven: a bounce is a mail that anybody can write.
    """

    action: Action
    status: str | None = None
    diagnostic: str | None = None
    final_recipient: str | None = None
    original_recipient: str | None = None
    remote_mta: str | None = None
    message_id: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The reports of a mail; none: it is no report. `why` says how it was read, or why it is none.

    An `envelope_id` (RFC 3461) is what the sender gave to the mail system, if he did.
    """

    reports: tuple[Report, ...]
    why: str
    envelope_id: str | None = None

    @property
    def is_report(self) -> bool:
        """Whether a mail system reported anything."""
        return bool(self.reports)


def status_in(text: str) -> str | None:
    """The first enhanced status code in `text` that says more than x.0.0, or else the first."""
    codes = [match[0] for match in STATUS.finditer(text[:4_000])]
    return next((code for code in codes if not code.endswith(".0.0")), codes[0] if codes else None)


def one_line(text: str) -> str | None:
    """`text` trimmed to one line; None where nothing is left."""
    return _BLANKS.sub(" ", text[: TEXT_MAX * 4]).strip()[:TEXT_MAX].rstrip() or None
