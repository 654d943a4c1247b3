"""JSON that somebody else wrote: read in bounded time, and any value of it may be of any type."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

from pydantic_core import from_json

from tasks.email.feedback import metadata, report
from tasks.errors import FeedbackError
from tasks.outbound.signature import WrongSignature

BODY_MAX = 4_194_304
EVENTS_MAX = 10_000
FUTURE_S = 300.0  # how far a provider's clock may be ahead
_MESSAGE_ID = re.compile(r"<?([^<>\s]{1,500})>?")


def load(body: bytes, *, provider: str) -> object:
    """The JSON in `body`; FeedbackError where it is none or too long."""
    if len(body) > BODY_MAX:
        sentence = f"The body that {provider} sent is longer than {BODY_MAX} bytes."
        raise FeedbackError(sentence, remedy="Let it send fewer events at a time.")
    try:
        loaded: object = from_json(body, allow_inf_nan=False)
    except ValueError:
        sentence = f"The body that {provider} sent is not JSON."
        remedy = "Check that the webhook has the JSON format and points to the right path."
        raise FeedbackError(sentence, remedy=remedy) from None
    return loaded


def refuse(provider: str, field: str, reason: str) -> NoReturn:
    """Raise the error for a body in which `field` is not what it should be."""
    sentence = f"In the body that {provider} sent, {field} {reason}."
    remedy = "Check that this kind of webhook points to this path."
    raise FeedbackError(sentence, remedy=remedy)


def mapping(value: object, key: str) -> dict[str, Any]:
    """The object under `key`; empty where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def entries(value: object, key: str) -> list[Any]:
    """The array under `key`; empty where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found[:EVENTS_MAX] if isinstance(found, list) else []


def text(value: object, *keys: str) -> str | None:
    """The first of `keys` that holds text or a number, as one line of at most 500 characters."""
    for key in keys:
        found = value.get(key) if isinstance(value, dict) else None
        if isinstance(found, (str, int)) and not isinstance(found, bool):
            line = report.one_line(printable(str(found)))
            if line:
                return line
    return None


def printable(value: str) -> str:
    """`value` in a form that Postgres is certain to accept."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]+", " ", value[:10_000])


def message_id(value: str | None) -> str | None:
    """A Message-ID with its angle brackets, which some providers take off."""
    found = _MESSAGE_ID.fullmatch(value.strip()) if value else None
    return f"<{found[1]}>" if found else None


def relais_id(carried: object) -> UUID | None:
    """Our message's id, as the mail carried it to the provider (metadata.header)."""
    found = text(carried, metadata.KEY)
    try:
        return UUID(found) if found else None
    except ValueError:
        return None


def embedded(value: object) -> object:
    """JSON in a text within JSON; None where it is none."""
    try:
        return from_json(value) if isinstance(value, str) else None
    except ValueError:
        return None


def moment(value: object) -> datetime | None:
    """A time in seconds or milliseconds since 1970, or after ISO 8601; None where it is none."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = value / 1000 if value > 1e11 else value
            return datetime.fromtimestamp(seconds, UTC)
        if isinstance(value, str):
            if re.fullmatch(r"[0-9]{1,13}(?:\.[0-9]{1,9})?", value):
                return moment(float(value))
            found = datetime.fromisoformat(value[:40])
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def require_fresh(sent_at: datetime | None, *, now: datetime, tolerance_s: float) -> None:
    """WrongSignature where a signed time is missing, too long ago, or ahead of our clock."""
    if sent_at is None:
        sentence = "The request carries no time that can be read."
        raise WrongSignature(sentence)
    age_s = (now - sent_at).total_seconds()
    if age_s > tolerance_s or age_s < -FUTURE_S:
        sentence = f"The request was signed {age_s:.0f} s ago; {tolerance_s:g} s are allowed."
        raise WrongSignature(sentence, remedy="Check the clocks; it may be a replay.")


def digest(*parts: bytes) -> str:
    """An id for what has none: the same bytes, the same id."""
    made = hashlib.sha256()
    for part in parts:
        made.update(b"%d:" % len(part) + part)
    return made.hexdigest()[:40]
