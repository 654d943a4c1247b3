"""Calendar invitations: what is taken for one, and how it lies in the mail."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.email import composer, invites
from tasks.email.addresses import Mailbox
from tasks.email.mail_merge import Copy, MailMerge
from tasks.email.payload import Email

AT = datetime(2026, 11, 21, 9, 30, 15, 123456, UTC)
EVENT = "BEGIN:VEVENT\r\nUID:1\r\nSUMMARY:Übung\r\nBEGIN:VALARM\r\nEND:VALARM\r\nEND:VEVENT\r\n"
INVITE = f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nMETHOD:REQUEST\r\n{EVENT}END:VCALENDAR\r\n"
GOOD: dict[str, Any] = {"from": "a@example.org", "to": "b@example.org", "text": "x"}
PDF = {"filename": "a.pdf", "content": "eA=="}


def parse(message: bytes) -> EmailMessage:
    return message_from_bytes(message, policy=policy.default)


@pytest.mark.parametrize(
    ("calendar", "method"),
    [
        (INVITE, "REQUEST"),
        (INVITE.replace("\r\n", "\n"), "REQUEST"),
        (INVITE.replace("METHOD:REQUEST", "method:cancel"), "CANCEL"),
        (INVITE.replace("METHOD:REQUEST", "METH\r\n OD:RE\r\n\tPLY"), "REPLY"),
        (INVITE.replace("VEVENT", "VTODO") + "\n\n", "REQUEST"),
        (INVITE.replace("SUMMARY:", "METHOD:IGNORED\r\nSUMMARY:"), "REQUEST"),
    ],
)
def test_an_invitation_says_what_it_asks_for(calendar: str, method: str) -> None:
    assert invites.method_of(calendar) == method


NOT_ONE = "must be one iCalendar object"


@pytest.mark.parametrize(
    ("calendar", "sentence"),
    [
        ("", NOT_ONE),
        ("hello", NOT_ONE),
        (EVENT, NOT_ONE),
        (INVITE * 2, NOT_ONE),
        (f"{INVITE}x", NOT_ONE),
        (INVITE.removesuffix("END:VCALENDAR\r\n"), NOT_ONE),
        (INVITE.replace("END:VALARM", "END:VEVENT"), "where another component is open"),
        (INVITE.replace(EVENT, ""), "needs one of VEVENT"),
        (INVITE.replace("METHOD:REQUEST\r\n", ""), "needs one METHOD"),
        (INVITE.replace("REQUEST", "DANCE"), "needs one METHOD"),
        (INVITE.replace("METHOD", "METHOD:CANCEL\r\nMETHOD"), "needs one METHOD"),
        (INVITE.replace("Übung", "a\x00b"), "NUL"),
        (INVITE.replace("Übung", "x" * 1_000_000), "at most 1000000"),
    ],
)
def test_what_is_none_is_refused_in_its_field(calendar: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Email.model_validate({**GOOD, "calendar": calendar})
    (error,) = refused.value.errors()
    assert error["loc"] == ("calendar",)
    assert sentence in error["msg"]


@pytest.mark.parametrize(
    ("fields", "tree"),
    [
        ({}, ["alternative", "plain", "calendar"]),
        ({"text": None, "html": "y"}, ["alternative", "html", "calendar"]),
        ({"html": "y"}, ["alternative", "plain", "html", "calendar"]),
        ({"html": "y", "attachments": [PDF]}, ["mixed", "alternative", "plain", "html", "calendar", "octet-stream"]),
    ],
)  # fmt: skip
def test_it_is_the_last_alternative(fields: dict[str, Any], tree: list[str]) -> None:
    email = Email.model_validate({**GOOD, "calendar": INVITE, **fields})
    composed = composer.compose(email, message_id="<1@x>", date=AT)
    merge = MailMerge(
        seed="s", from_=email.from_, attachments=email.attachments, calendar=email.calendar
    )
    copy = Copy(
        to=email.to[0], subject="", message_id="<1@x>", date=AT, text=email.text, html=email.html
    )
    for message in (composed, merge.message(copy).whole):
        parts = list(parse(message).walk())
        assert [part.get_content_subtype() for part in parts] == tree
        (invite,) = (part for part in parts if part.get_content_subtype() == "calendar")
        assert invite.get_param("method") == "REQUEST"
        assert invite.get_content_charset() == "utf-8"
        assert invite.get_payload(decode=True) == INVITE.encode()


def test_an_invitation_that_knows_the_boundary_cannot_end_its_part() -> None:
    sender = Mailbox(address="a@example.org")
    copy = Copy(to=sender, subject="", message_id="<1@x>", date=AT, text="x")
    plain = INVITE.replace("Übung", "x")
    known = parse(MailMerge(seed="s", from_=sender, calendar=plain).message(copy).whole)
    attack = plain.replace("SUMMARY", f"X-A:\r\n--{known.get_boundary()}--\r\nSUMMARY")
    merged = parse(MailMerge(seed="s", from_=sender, calendar=attack).message(copy).whole)
    _, invite = merged.iter_parts()
    assert invite.get_payload(decode=True) == attack.encode()
