"""How a mail carries our message's id through a provider, who gives it back with each event.

It stands in a header that the provider takes off again; the mail that arrives does not have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import UUID

KEY = "relais_message"


def _in_json(message_id: UUID) -> str:
    return json.dumps({KEY: str(message_id)})


# Provider -> the header over SMTP, and what to write there.
_HEADERS: dict[str, tuple[str, Callable[[UUID], str]]] = {
    "brevo": ("X-Mailin-custom", _in_json),
    "mailgun": ("X-Mailgun-Variables", _in_json),
    "postmark": (f"X-PM-Metadata-{KEY}", str),
    "sendgrid": ("X-SMTPAPI", lambda m: json.dumps({"unique_args": {KEY: str(m)}})),
    # Given back by events of a configuration set, not by the notifications of an identity.
    "ses": ("X-SES-MESSAGE-TAGS", lambda m: f"{KEY}={m}"),
}
PROVIDERS = frozenset(_HEADERS)


def header(provider: str, message_id: UUID) -> tuple[str, str]:
    """Name and value of the header that carries `message_id` (`messages.id`) to `provider`."""
    name, value = _HEADERS[provider]
    return name, value(message_id)
