"""Mail merge: every copy reads like the mail that composition makes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.email import composer
from tasks.email.addresses import Mailbox
from tasks.email.mail_merge import Copy, MailMerge
from tasks.email.payload import Attachment, Email
from tasks.errors import PayloadError

AT = datetime(2026, 11, 21, 9, 30, 15, 123456, UTC)
SENDER = Mailbox(name="Zoë's Shop", address="shop@example.org")
REPLY_TO = [Mailbox(address="help@example.org"), Mailbox(name="é", address="x@example.org")]
HEADERS = {"X-Campaign": "spring é", "List-Id": "<news.example.org>"}
PDF = Attachment.model_validate({"filename": "é.pdf", "content": "JVBERi0x" * 40})
LOGO = Attachment.model_validate({"filename": "l.png", "content": "eA==", "content_id": "logo"})
FILES: tuple[tuple[Attachment, ...], ...] = ((), (PDF,), (LOGO,), (LOGO, PDF))

# One for all examples: what it keeps of one copy must not show in the next.
MERGES: dict[tuple[Attachment, ...], MailMerge] = {
    files: MailMerge(seed="c1", from_=SENDER, reply_to=REPLY_TO, headers=HEADERS, attachments=files)
    for files in FILES
}

planes = st.builds(
    lambda plane, offset: chr(plane * 0x10000 + offset), st.integers(0, 16), st.integers(0, 0xFFFF)
).filter(lambda c: c != "\x00" and not "\ud800" <= c <= "\udfff")
bodies = st.one_of(
    st.text(planes, max_size=200),
    st.text(st.sampled_from("\r\n. \t=_-aé😀\x0c"), max_size=120),
    st.lists(st.sampled_from(["x" * 998, "y" * 999, ".", "..", "", "From me", "trailing "])).map(
        "\n".join
    ),
    st.lists(st.text(st.characters(codec="ascii", exclude_characters="\x00"))).map("\r\n".join),
)
lines = st.text(
    planes.filter(lambda c: c.isprintable() or c in " \u2028"), max_size=150
).filter(lambda s: "\ufeff" not in s)  # fmt: skip


def parse(message: bytes) -> EmailMessage:
    return message_from_bytes(message, policy=policy.default)


def read(message: bytes) -> tuple[Any, ...]:
    """What a reader gets to see; boundaries are not among it."""
    parsed = parse(message)
    assert not parsed.defects
    fields = sorted(
        (name.lower(), str(value)) for name, value in parsed.items() if name != "Content-Type"
    )
    leaves = [
        (
            part.get_content_type(),
            part.get_content_charset(),
            part["Content-Transfer-Encoding"],
            part.get_content_disposition(),
            part.get_filename(),
            part["Content-ID"],
            part.get_payload(decode=True),
        )
        for part in parsed.walk()
    ]
    return fields, leaves


@given(
    text=st.none() | bodies,
    html=st.none() | bodies,
    subject=lines,
    name=lines.filter(lambda s: len(s) <= 150),
    local=st.sampled_from(["ada", "pelé"]),
    note=lines,
    files=st.sampled_from(FILES),
    utf8=st.booleans(),
)
@example(text="", html="", subject="", name="", local="ada", note="", files=(), utf8=False)
@example(text="", html=None, subject="x", name="", local="ada", note="", files=(), utf8=False)
@example(text=None, html="é", subject="x", name="", local="ada", note="", files=(PDF,), utf8=True)
@example(text=".", html="x" * 5000, subject="é" * 400, name="é" * 150, local="pelé", note="\u2028", files=(LOGO, PDF), utf8=True)  # fmt: skip
def test_a_copy_reads_like_the_composed_mail(
    *,
    text: str | None,
    html: str | None,
    subject: str,
    name: str,
    local: str,
    note: str,
    files: tuple[Attachment, ...],
    utf8: bool,
) -> None:
    if html is None and (text is None or LOGO in files):
        html = "<p>"
    to = Mailbox(name=name, address=f"{local}@example.org")
    uris = ["https://example.org/u?id=1&k=a,b", "mailto:u@example.org"]
    email = Email.model_validate(
        {
            "from": SENDER,
            "to": [to],
            "reply_to": REPLY_TO,
            "subject": subject,
            "text": text,
            "html": html,
            "attachments": list(files),
            "headers": {
                **HEADERS,
                "X-Note": note,
                "List-Unsubscribe": ", ".join(f"<{uri}>" for uri in uris),
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            },
        }
    )
    composed = composer.compose(email, message_id="<1@example.org>", date=AT, utf8=utf8)
    copy = Copy(
        to=to,
        subject=subject,
        text=text,
        html=html,
        message_id="<1@example.org>",
        date=AT,
        unsubscribe=uris,
        headers={"X-Note": note},
    )
    merged = MERGES[files].message(copy, utf8=utf8).whole
    assert read(merged) == read(composed)
    assert_fit(merged)


def assert_fit(message: bytes) -> None:
    assert message.endswith(b"\r\n")
    assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")
    assert b"\x00" not in message
    assert max(map(len, message.split(b"\r\n"))) <= 998


def copy_of(**fields: Any) -> Copy:
    usual: dict[str, Any] = {
        "to": Mailbox(address="b@example.org"),
        "subject": "x",
        "message_id": "<1@example.org>",
        "date": AT,
        "text": "x",
    }
    return Copy(**{**usual, **fields})


def test_a_text_that_knows_the_boundary_cannot_end_its_part() -> None:
    merge = MERGES[PDF,]
    known = parse(merge.message(copy_of(html="y")).whole)
    boundaries = {part.get_boundary() for part in known.walk() if part.is_multipart()}
    assert len(boundaries) == 2
    for boundary in boundaries:
        attack = f"x\r\n--{boundary}\r\nContent-Type: text/html\r\n\r\nforged\r\n--{boundary}--\r\n"
        parsed = parse(merge.message(copy_of(text=attack, html="y")).whole)
        tree = [part.get_content_type() for part in parsed.walk()]
        assert tree == [part.get_content_type() for part in known.walk()]
        (plain,) = (p for p in parsed.walk() if p.get_content_type() == "text/plain")
        assert plain.get_payload(decode=True) == attack.encode()


def test_what_copies_share_is_one_object() -> None:
    merge = MERGES[PDF,]
    first, second = (merge.message(copy_of(subject=subject)) for subject in ("a", "b"))
    assert first.own != second.own
    assert first.shared is second.shared
    assert first.body is second.body
    assert first.tail is second.tail
    assert b"JVBER" in first.tail
    assert merge.message(copy_of(text="other")).body is not first.body


def test_another_process_makes_the_same_bytes() -> None:
    again = MailMerge(seed="c1", from_=SENDER, reply_to=REPLY_TO, headers=HEADERS)
    warm = MERGES[()]
    for copy in (copy_of(), copy_of(text="é"), copy_of(html="=", text=None), copy_of(html="z")):
        assert again.message(copy) == warm.message(copy)
    other = MailMerge(seed="c2", from_=SENDER, reply_to=REPLY_TO, headers=HEADERS)
    assert other.message(copy_of(html="z")).whole != warm.message(copy_of(html="z")).whole


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": None}, "A mail needs text or html"),
        ({"headers": {"x-campaign": "mine"}}, "x-campaign would be set twice"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "x-a would be set twice"),
        ({"headers": {"List-Unsubscribe": "<https://x.org>"}, "unsubscribe": ["https://y.org"]}, "list-unsubscribe would be set twice"),
        ({"headers": {"Bcc": "c@example.org"}}, "The header 'Bcc' cannot be set"),
        ({"headers": {"X-A": "1\r\nBcc: c@example.org"}}, "must not contain line breaks"),
        ({"unsubscribe": ["http://example.org/u"]}, "no URI for List-Unsubscribe"),
        ({"unsubscribe": ["https://example.org/>\r\nBcc: c@example.org"]}, "no URI for List-Unsubscribe"),
        ({"unsubscribe": ["https://example.org/" + "x" * 900]}, "no URI for List-Unsubscribe"),
        ({"unsubscribe": ["https://example.org/\n"]}, "no URI for List-Unsubscribe"),
        ({"message_id": "<" + "x" * 1000 + "@example.org>"}, "lines that every relay takes"),
        ({"message_id": "<1@example.org>\nX: y"}, "lines that every relay takes"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PayloadError, match=sentence) as refused:
        MERGES[()].message(copy_of(**fields))
    assert refused.value.remedy


def test_a_shared_list_unsubscribe_stays_alone() -> None:
    headers = {"List-Unsubscribe": "<mailto:u@example.org>"}
    merge = MailMerge(seed="s", from_=SENDER, headers=headers)
    merge.message(copy_of())
    with pytest.raises(PayloadError, match="would be set twice"):
        merge.message(copy_of(unsubscribe=["https://example.org/u"]))


def test_one_click_is_promised_for_https_alone() -> None:
    merge = MERGES[()]
    by_mail = merge.message(copy_of(unsubscribe=["mailto:u@example.org"])).own
    assert b"List-Unsubscribe: <mailto:u@example.org>\r\n" in by_mail
    assert b"One-Click" not in by_mail
    by_post = merge.message(copy_of(unsubscribe=["https://example.org/u"])).own
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in by_post


def test_a_header_that_no_mail_may_have_is_refused_before_the_first_copy() -> None:
    with pytest.raises(PayloadError, match="cannot be set"):
        MailMerge(seed="s", from_=SENDER, headers={"Return-Path": "<x@example.org>"})
