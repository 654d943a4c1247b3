"""The payload of `email.send`, as callers write it."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from runtime.errors import words_of
from tasks.email import headers as header_fields
from tasks.email import invites
from tasks.email.addresses import Mailbox, mailbox, mailboxes, refuse_controls
from tasks.email.relays import DEFAULT, Policy
from tasks.errors import PayloadError

RECIPIENTS_MAX = 50
SUBJECT_MAX = 2_000
BODY_MAX = 10_000_000
CALENDAR_MAX = 1_000_000
ATTACHMENTS_MAX = 50
ATTACHMENT_MAX_BYTES = 10 * 1024 * 1024
ATTACHMENTS_MAX_BYTES = 20 * 1024 * 1024

REFERENCE = r"^[A-Za-z0-9_.-]{1,64}(@[1-9][0-9]{0,8})?$"  # of a stored template
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")
_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}"
    r"(?:; ?charset=[A-Za-z0-9_.-]{1,40})?"
)
_CONTENT_ID = re.compile(r"[A-Za-z0-9._+-]{1,128}(?:@[A-Za-z0-9.-]{1,128})?")
_PATH = re.compile(r"[/\\]")


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    if len(value) > ATTACHMENT_MAX_BYTES * 3 // 2:
        message = f"is larger than {ATTACHMENT_MAX_BYTES} bytes"
        raise ValueError(message)
    try:
        content = binascii.a2b_base64("".join(value.split()), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        message = f"is not base64: {error}"
        raise ValueError(message) from error
    if len(content) > ATTACHMENT_MAX_BYTES:
        message = f"is larger than {ATTACHMENT_MAX_BYTES} bytes"
        raise ValueError(message)
    return content


def _encoded(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded, json_schema_input_type=str),
    PlainSerializer(_encoded, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
OneMailbox = Annotated[Mailbox, BeforeValidator(mailbox, json_schema_input_type=str | Mailbox)]
Mailboxes = Annotated[
    list[Mailbox],
    BeforeValidator(mailboxes, json_schema_input_type=str | Mailbox | list[str | Mailbox]),
]


def _one_line(value: str) -> str:
    refuse_controls(value, "A subject")
    return value


def _storable(value: str) -> str:
    if _UNFIT.search(value):
        message = "must not contain NUL characters or lone surrogates"
        raise ValueError(message)
    return value


OneLine = Annotated[str, Field(max_length=SUBJECT_MAX), AfterValidator(_one_line)]
Body = Annotated[str, Field(max_length=BODY_MAX), AfterValidator(_storable)]
Calendar = Annotated[
    str,
    Field(max_length=CALENDAR_MAX),
    AfterValidator(_storable),
    AfterValidator(invites.checked),
]


class _Content(BaseModel):
    """The fields that templates render to."""

    subject: OneLine = ""
    text: Body | None = None
    html: Body | None = None


class Attachment(BaseModel):
    """A file sent with the mail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filename: str = Field(
        min_length=1, max_length=255, description="Name without path.", examples=["invoice.pdf"]
    )
    content_type: str = Field(
        "application/octet-stream", description="MIME type.", examples=["application/pdf"]
    )
    content: Base64 = Field(
        description=f"The file, base64; at most {ATTACHMENT_MAX_BYTES} bytes when decoded.",
        examples=["SGVsbG8="],
    )
    content_id: str | None = Field(
        None,
        description='Shown inside the html where that says `<img src="cid:...">`.',
        examples=["logo"],
    )

    @field_validator("filename")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        refuse_controls(value, "A file name")
        name = value.strip()
        if _PATH.search(name) or not name.strip("."):
            message = "must be a name without a path"
            raise ValueError(message)
        return name

    @field_validator("content_type")
    @classmethod
    def _simple_type(cls, value: str) -> str:
        if not _TYPE.fullmatch(value) or value.lower().startswith(("multipart/", "message/")):
            message = "must be a MIME type such as application/pdf; not multipart/ or message/"
            raise ValueError(message)
        return value

    @field_validator("content_id")
    @classmethod
    def _plain_id(cls, value: str | None) -> str | None:
        if value is not None and not _CONTENT_ID.fullmatch(value):
            message = "may have letters, digits and ._+-@"
            raise ValueError(message)
        return value


class Email(BaseModel):
    """One mail to up to fifty recipients; each gets a message of its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True,
        serialize_by_alias=True,
        json_schema_extra={
            "examples": [
                {
                    "from": "Relais <hello@example.org>",
                    "to": ["Ada Lovelace <ada@example.org>"],
                    "subject": "Your password",
                    "text": "Hello Ada, here is the link you asked for.",
                },
                {
                    "from": {"name": "Relais", "address": "hello@example.org"},
                    "to": "ada@example.org",
                    "subject": "Invoice {{ number }}",
                    "html": "<p>Dear {{ name }}, your invoice is attached.</p>",
                    "variables": {"name": "Ada", "number": 1815},
                },
                {
                    "from": "Relais <hello@example.org>",
                    "to": "ada@example.org",
                    "template": "welcome",
                    "variables": {"name": "Ada"},
                },
            ]
        },
    )  # fmt: skip

    from_: OneMailbox = Field(
        alias="from",
        description="The sender: `a@example.org`, `Name <a@example.org>` or an object.",
        examples=["Relais <hello@example.org>"],
    )
    to: Mailboxes = Field(
        default_factory=list,
        description="One recipient, several separated by commas, or a list.",
        examples=[["Ada Lovelace <ada@example.org>"]],
    )
    cc: Mailboxes = Field(
        default_factory=list, description="Shown to all.", examples=[["grace@example.org"]]
    )
    bcc: Mailboxes = Field(
        default_factory=list, description="Shown to nobody.", examples=[["archive@example.org"]]
    )
    reply_to: Mailboxes = Field(
        default_factory=list, description="Where replies go.", examples=[["help@example.org"]]
    )
    subject: OneLine = Field("", description="One line.", examples=["Your password"])
    text: Body | None = Field(
        None,
        description="The mail as plain text; text, html or both.",
        examples=["Hello Ada"],
    )
    html: Body | None = Field(None, description="The mail as HTML.", examples=["<p>Hello Ada</p>"])
    calendar: Calendar | None = Field(
        None,
        description="An invitation as iCalendar text with a METHOD, shown by mail programs with "
        "buttons to accept it. Besides text or html; never a template.",
        examples=[
            (
                "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Example//EN\r\nMETHOD:REQUEST\r\n"
                "BEGIN:VEVENT\r\nUID:1@example.org\r\nDTSTAMP:20261121T093000Z\r\n"
                "DTSTART:20261201T090000Z\r\nSUMMARY:Review\r\nORGANIZER:mailto:hello@example.org\r\n"
                "ATTENDEE:mailto:ada@example.org\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
            )
        ],
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        max_length=header_fields.COUNT_MAX,
        description="Further headers: X-*, List-*, In-Reply-To, References, Auto-Submitted, ...",
        examples=[{"X-Campaign": "spring", "Auto-Submitted": "auto-generated"}],
    )
    attachments: list[Attachment] = Field(
        default_factory=list,
        max_length=ATTACHMENTS_MAX,
        description=f"Files; together at most {ATTACHMENTS_MAX_BYTES} bytes when decoded.",
        examples=[[{"filename": "hello.txt", "content_type": "text/plain", "content": "SGk="}]],
    )
    relay: str = Field(
        DEFAULT,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Which SMTP account to send through.",
        examples=[DEFAULT],
    )
    policy: Policy | None = Field(
        None,
        description="What to do when a relay never answers the final dot: send again "
        "(at_least_once), leave it to a person (at_most_once), or send again where the relay "
        "deduplicates (idempotency_header). Default: the relay's.",
        examples=["at_most_once"],
    )
    template: str | None = Field(
        None,
        pattern=REFERENCE,
        description="A stored template in place of subject, text and html: `welcome`, or one "
        "version of it, `welcome@3`.",
        examples=["welcome@3"],
    )
    variables: dict[str, Any] | None = Field(
        None,
        description="For `template`; without one: when given, subject, text and html are Jinja "
        "templates over these.",
        examples=[{"name": "Ada"}],
    )

    @field_validator("headers")
    @classmethod
    def _allowed_headers(cls, value: dict[str, str]) -> dict[str, str]:
        if len({name.lower() for name in value}) < len(value):
            message = "A header is named twice."
            raise ValueError(message)
        for name, text in value.items():
            sentence = header_fields.refusal(name, text)
            if sentence:
                raise ValueError(sentence)
        return value

    def with_content(self, rendered: Mapping[str, Any]) -> Email:
        """This mail with its templates replaced by what they rendered to; raises PayloadError."""
        try:
            content = _Content.model_validate(dict(rendered))
        except ValidationError as error:
            first = error.errors()[0]
            sentence = f"The rendered {first['loc'][0]} is not valid: {words_of(first)}."
            raise PayloadError(sentence, remedy="Correct the template.") from error
        if content.html is None and any(a.content_id for a in self.attachments):
            sentence = "An attachment with a content_id needs html that shows it."
            raise PayloadError(sentence, remedy="Give the template html.")
        filled = {"variables": None, "template": None}
        return self.model_copy(update={**content.model_dump(exclude_unset=True), **filled})

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.template is not None and (self.subject or self.text or self.html):
            message = "A mail has a template, or a subject, text and html of its own; not both."
            raise ValueError(message)
        if self.text is None and self.html is None and self.template is None:
            message = "A mail needs text or html, or a template."
            raise ValueError(message)
        count = len(self.to) + len(self.cc) + len(self.bcc)
        if not 1 <= count <= RECIPIENTS_MAX:
            message = f"A mail needs 1 to {RECIPIENTS_MAX} recipients in to, cc and bcc."
            raise ValueError(message)
        if sum(len(attachment.content) for attachment in self.attachments) > ATTACHMENTS_MAX_BYTES:
            message = f"The attachments have more than {ATTACHMENTS_MAX_BYTES} bytes together."
            raise ValueError(message)
        inline = [a.content_id for a in self.attachments if a.content_id]
        if inline and self.html is None and self.template is None:
            message = "An attachment with a content_id needs html that shows it."
            raise ValueError(message)
        if len(set(inline)) < len(inline):
            message = "Two attachments have the same content_id."
            raise ValueError(message)
        return self
