"""Which of our mails somebody speaks of: Message-ID and return path, wherever they are repeated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.email.feedback import mail_reader, verp
from tasks.email.feedback.mail_reader import Headers, Part

# What a mail system notes of the address that a mail was delivered to; the return path of ours.
_DELIVERED_TO = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "to")
_RETURN_PATHS = ("return-path", "x-return-path", "errors-to", "sender")
_HEADERS_ALONE = {
    "text/rfc822-headers", "message/rfc822-headers", "message/global-headers",
}  # fmt: skip
_MAILS = {"message/rfc822", "message/global"}
_MESSAGE_ID = re.compile(r"<[^<>\s]{1,500}@[^<>\s]{1,500}>")


@dataclass(frozen=True, slots=True)
class Original:
    """What was found of the original; everything in it could be invented by the sender.

    `token`: of the return path; `verp.read` says whether it is one of ours.
    """

    message_id: str | None = None
    token: str | None = None
    headers: Headers | None = None


def find(mail: Part, *, envelope_to: str | None = None) -> Original:
    """The original of a report.

    `envelope_to`: the address that the report was delivered to, where the mail system tells it.
    """
    headers = returned(mail)
    places = [envelope_to or "", *mail.headers.all(*_DELIVERED_TO)]
    named = mail.headers.all("x-original-message-id", "in-reply-to", "references")
    if headers is not None:
        places += headers.all(*_RETURN_PATHS)
        named = [*headers.all("message-id"), *named]
    return Original(
        message_id=first_message_id(named),
        token=next(filter(None, map(verp.token_in, places)), None),
        headers=headers,
    )


def returned(mail: Part) -> Headers | None:
    """The header of the mail that came back with a report."""
    for part in mail.walk():
        if part.content_type in _HEADERS_ALONE | _MAILS:
            headers, _ = mail_reader.read_headers(part.decoded().lstrip(b"\r\n"))
            if headers.fields:
                return headers
    return None


def first_message_id(values: list[str]) -> str | None:
    """The first Message-ID in these values, with its angle brackets."""
    return next((found[0] for value in values if (found := _MESSAGE_ID.search(value))), None)


def token_of(headers: Headers) -> str | None:
    """The token in the return path of a returned mail; unchecked."""
    return next(filter(None, map(verp.token_in, headers.all(*_RETURN_PATHS))), None)
