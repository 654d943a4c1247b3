"""Composition: whatever callers write comes back out of a parser, and only that."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.email import composer, smtp
from tasks.email.payload import Email

JOB = UUID("0193f0a0-7a1b-7c3d-8e4f-5a6b7c8d9e0f")
AT = datetime(2026, 11, 21, 9, 30, 15, 123456, UTC)
HEADERS = {
    "date", "from", "to", "cc", "reply-to", "subject", "message-id", "mime-version",
    "content-type", "content-transfer-encoding", "x-note",
}  # fmt: skip

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=400)
lines = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), max_size=300
).filter(lambda s: "\ufeff" not in s)  # fmt: skip
nasty = st.text(st.sampled_from("\r\n.: \tab=?é€😀\x00\x0b\x85\u2028<>,;\"'\\@"), max_size=60)


def compose(**fields: object) -> bytes:
    email = Email.model_validate(
        {"from": "a@example.org", "to": "b@example.org", "text": "x", **fields}
    )
    return composer.compose(email, message_id=composer.message_id(JOB, "example.org"), date=AT)


def parse(message: bytes) -> EmailMessage:
    return message_from_bytes(message, policy=policy.default)


def normalised(text: str) -> str:
    return re.sub(r"\r\n?|\n", "\n", text)


def assert_sound(message: bytes) -> None:
    """Lines that no relay and no reader can take for anything else."""
    assert message.endswith(b"\r\n")
    assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")
    assert b"\x00" not in message
    assert message.isascii()
    assert max(map(len, message.split(b"\r\n"))) <= 998
    head = message.split(b"\r\n\r\n")[0]
    names = re.findall(rb"^([^:\s]+):", head, re.MULTILINE)
    assert {name.lower().decode() for name in names} <= HEADERS
    assert len(names) == len(set(names))


@given(text=words, html=words)
@example(text=".\r\n..\n.", html="\r\r\n")
@example(text="x" * 5000, html="é" * 5000)
@example(text="trailing \t \nFrom me\n", html="=\n==")
def test_bodies_come_back(text: str, html: str) -> None:
    message = compose(text=text, html=html)
    assert_sound(message)
    parts = [p.get_payload(decode=True) for p in parse(message).iter_parts()]
    assert [normalised(p.decode()) for p in parts] == [normalised(text), normalised(html)]  # type: ignore[union-attr]


@given(subject=lines, note=lines)
@example(subject="a" * 1000, note="=?utf-8?q?x?=")
@example(subject=" lead and trail ", note="a  b   c" * 30)
@example(subject="é" * 400, note="\u2028")
def test_header_texts_come_back(subject: str, note: str) -> None:
    message = compose(subject=subject, headers={"X-Note": note})
    assert_sound(message)
    parsed = parse(message)
    assert parsed["Subject"] == subject
    assert parsed["X-Note"] == note


@given(name=lines.filter(lambda s: len(s) <= 200), local=st.sampled_from(["a", "o'b", "x.y+z"]))
@example(name='Ada "the first", Countess', local="a")
@example(name="Zoë 😀 Müller", local="a")
@example(name="back\\slash (comment)", local="a")
def test_names_come_back(name: str, local: str) -> None:
    message = compose(to=[{"name": name, "address": f"{local}@example.org"}])
    assert_sound(message)
    # Not by the new parser: in names it keeps the space between two encoded words.
    written, address = parseaddr(re.sub(r"\r\n", "", message_from_bytes(message)["To"]))
    assert address == f"{local}@example.org"
    assert str(make_header(decode_header(written))) == name.strip()


@given(value=nasty, field=st.sampled_from(["subject", "name", "header", "filename", "address"]))
def test_nothing_a_caller_writes_becomes_a_header(value: str, field: str) -> None:
    payload: dict[str, object] = {
        "subject": {"subject": value},
        "name": {"to": [{"name": value, "address": "b@example.org"}]},
        "header": {"headers": {"X-Note": value}},
        "filename": {"attachments": [{"filename": value, "content": "eA=="}]},
        "address": {"to": [{"address": value}]},
    }[field]  # type: ignore[assignment]
    try:
        message = compose(**payload)
    except ValueError:
        return
    assert_sound(message)
    assert "\r" not in value
    assert "\n" not in value


@given(
    filename=lines.map(str.strip).filter(
        lambda s: s.strip(".") and not set(s) & set("/\\") and len(s) <= 255
    ),
    content=st.binary(max_size=300),
)
@example(filename="é" * 255, content=b"")
@example(filename='semi;colon "quoted".pdf', content=b"x")
def test_attachments_come_back(filename: str, content: bytes) -> None:
    message = compose(attachments=[{"filename": filename, "content": b64encode(content).decode()}])
    assert_sound(message)
    _, file = parse(message).iter_parts()
    assert file.get_filename() == filename
    assert file.get_payload(decode=True) == content


@given(st.lists(st.sampled_from([b".", b"..", b"", b"a", b".b", b"a."]), max_size=8))
def test_dots_are_doubled_and_come_back(body: list[bytes]) -> None:
    message = b"\r\n".join(body)
    stuffed = smtp.stuff(message)
    assert stuffed.endswith(b"\r\n")
    assert b".\r\n" not in {line + b"\r\n" for line in stuffed.split(b"\r\n")}
    back = b"\r\n".join(
        line.removeprefix(b".") for line in stuffed.removesuffix(b"\r\n").split(b"\r\n")
    )
    assert back == message.removesuffix(b"\r\n")


def test_the_same_mail_is_the_same_bytes() -> None:
    fields = {
        "html": "<p>é</p>",
        "attachments": [{"filename": "a.txt", "content": "eA=="}],
        "headers": {"X-Note": "é"},
    }
    assert compose(**fields) == compose(**fields)


def test_structure_with_inline_image_and_attachment() -> None:
    parsed = parse(
        compose(
            html='<img src="cid:logo@x">',
            attachments=[
                {"filename": "l.png", "content_type": "image/png", "content": "eA==", "content_id": "logo@x"},
                {"filename": "i.pdf", "content_type": "application/pdf", "content": "eQ=="},
            ],
        )
    )  # fmt: skip
    tree = [part.get_content_type() for part in parsed.walk()]
    assert tree == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related",
        "text/html", "image/png", "application/pdf",
    ]  # fmt: skip
    image = next(p for p in parsed.walk() if p.get_content_type() == "image/png")
    assert image["Content-ID"] == "<logo@x>"
    assert image.get_content_disposition() == "inline"
    assert parsed["Date"].datetime == AT.replace(microsecond=0)


def test_html_alone_has_no_empty_levels() -> None:
    parsed = parse(compose(text=None, html="<p>x</p>"))
    assert parsed.get_content_type() == "text/html"


def test_only_bcc_names_nobody() -> None:
    message = compose(to=[], bcc="secret@example.org")
    assert b"To: undisclosed-recipients:;\r\n" in message
    assert b"secret" not in message


def test_an_international_local_part_is_shown_in_ascii_to_those_who_cannot_read_it() -> None:
    message = compose(to=["pelé@exämple.org", "b@example.org"])
    assert_sound(message)
    to = parse(message)["To"]
    assert [a.addr_spec for a in to.addresses] == ["b@example.org"]
    assert to.groups[0].display_name == "pelé@xn--exmple-cua.org"


@pytest.mark.parametrize("needed", ["to", "from", "reply_to"])
def test_smtputf8_headers_carry_the_address(needed: str) -> None:
    email = Email.model_validate(
        {"from": "a@example.org", "to": "b@example.org", "text": "x", needed: "pelé@example.org"}
    )
    message = composer.compose(email, message_id="<x@y>", date=AT, utf8=True)
    assert "pelé@example.org".encode() in message
