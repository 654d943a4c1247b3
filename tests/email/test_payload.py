"""What callers may write, and the sentence they get where they may not."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.email import addresses
from tasks.email.payload import Email

GOOD: dict[str, Any] = {"from": "a@example.org", "to": "b@example.org", "text": "x"}
NUL, SURROGATE = "\x00", "\ud800"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("b@x.org", [("", "b@x.org")]),
        ("B <b@x.org>", [("B", "b@x.org")]),
        ('"Last, First" <b@x.org>, c@x.org', [("Last, First", "b@x.org"), ("", "c@x.org")]),
        (["b@x.org", {"name": "C", "address": "c@X.ORG"}], [("", "b@x.org"), ("C", "c@x.org")]),
        ({"address": "b@x.org"}, [("", "b@x.org")]),
        ("Zoë Müller <zoe@münchen.de>", [("Zoë Müller", "zoe@xn--mnchen-3ya.de")]),
        ("pelé@exämple.org", [("", "pelé@xn--exmple-cua.org")]),
        ("<b@x.org>", [("", "b@x.org")]),
        (r'"say \"hi\"" <b@x.org>', [('say "hi"', "b@x.org")]),
        ("b@intranet.local", [("", "b@intranet.local")]),
    ],
)
def test_recipients_may_be_written_in_many_ways(written: Any, meant: list[tuple[str, str]]) -> None:
    email = Email.model_validate({**GOOD, "to": written})
    assert [(box.name, box.address) for box in email.to] == meant


@pytest.mark.parametrize(
    "bad",
    [
        {"to": []},
        {"to": "nobody"},
        {"to": "a@@example.org"},
        {"to": "a b@example.org"},
        {"to": "a@example.org b@example.org"},
        {"to": "a@example.org,"*51},
        {"to": "a@-x.org"},
        {"to": "a@x..org"},
        {"to": ".a@x.org"},
        {"to": "a" * 65 + "@x.org"},
        {"to": "a@" + "x" * 64 + ".org"},
        {"to": "a@[127.0.0.1]"},
        {"to": "a@x.org\r\nBcc: c@x.org"},
        {"to": "a@x.org" + NUL},
        {"to": [f"u{i}@example.org" for i in range(51)]},
        {"to": 7},
        {"to": [None]},
        {"to": {"name": "x\ny", "address": "a@example.org"}},
        {"to": {"name": "x", "address": "a@example.org", "more": 1}},
        {"to": "a>b@example.org"},
        {"to": "RCPT TO:<x@y> <a@b"},
        {"from": "a@x.org, b@x.org"},
        {"from": ""},
        {"from": None},
        {"subject": "a\nb"},
        {"subject": "a\rb"},
        {"subject": "a" + NUL},
        {"subject": SURROGATE},
        {"subject": "a" * 2001},
        {"text": None},
        {"text": "a" + NUL},
        {"text": SURROGATE},
        {"html": NUL},
        {"headers": {"Bcc": "x@y.org"}},
        {"headers": {"From": "x@y.org"}},
        {"headers": {"Message-ID": "<x@y>"}},
        {"headers": {"Content-Type": "text/html"}},
        {"headers": {"DKIM-Signature": "x"}},
        {"headers": {"Return-Path": "x"}},
        {"headers": {"X-A": "a\r\nBcc: x@y.org"}},
        {"headers": {"X-A\r\nBcc": "x@y.org"}},
        {"headers": {"X-A:": "x"}},
        {"headers": {"X-Ä": "x"}},
        {"headers": {"X-A": "1", "x-a": "2"}},
        {"headers": {"X-A": "a" * 4001}},
        {"headers": {"In-Reply-To": "<é@x>"}},
        {"headers": {"References": "<" + "a" * 950 + "@x>"}},
        {"headers": {f"X-{i}": "" for i in range(51)}},
        {"attachments": [{"filename": "../etc/passwd", "content": ""}]},
        {"attachments": [{"filename": "..", "content": ""}]},
        {"attachments": [{"filename": "a\nb", "content": ""}]},
        {"attachments": [{"filename": "a", "content": "not base64!"}]},
        {"attachments": [{"filename": "a", "content": "eA="}]},
        {"attachments": [{"filename": "a", "content": "", "content_type": "multipart/mixed"}]},
        {"attachments": [{"filename": "a", "content": "", "content_type": "a/b\r\nBcc: x"}]},
        {"attachments": [{"filename": "a", "content": "", "content_id": "<x>"}], "html": "x"},
        {"attachments": [{"filename": "a", "content": "", "content_id": "x"}]},
        {"attachments": [{"filename": "a", "content": "", "content_id": "x"}] * 2, "html": "x"},
        {"relay": "../x"},
        {"policy": "exactly_once"},
        {"variables": [1]},
        {"unknown": 1},
    ],
)  # fmt: skip
def test_what_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Email.model_validate({**GOOD, **bad})


def test_attachments_are_measured_when_decoded() -> None:
    megabyte = base64.b64encode(bytes(1024 * 1024)).decode()
    ten = base64.b64encode(bytes(10 * 1024 * 1024)).decode()
    Email.model_validate({**GOOD, "attachments": [{"filename": "a", "content": ten}] * 2})
    for too_much in ([ten + "eA=="], [ten, ten, megabyte], ["A" * 16 * 1024 * 1024]):
        files = [{"filename": "a", "content": content} for content in too_much]
        with pytest.raises(ValidationError):
            Email.model_validate({**GOOD, "attachments": files})


def test_a_payload_survives_being_dumped_and_read_again() -> None:
    email = Email.model_validate(
        {
            **GOOD,
            "from": "Zoë <z@münchen.de>",
            "html": "x",
            "attachments": [{"filename": "a", "content": "eA==", "content_id": "x"}],
        }
    )
    assert Email.model_validate(email.model_dump(mode="json")) == email


def test_the_schema_shows_every_field_with_words_and_an_example() -> None:
    schema = Email.model_json_schema()
    assert {"from", "to", "subject", "variables"} <= set(schema["properties"])
    for name, field in schema["properties"].items():
        assert field.get("description"), name
        assert field.get("examples"), name
    for example in schema["examples"]:
        Email.model_validate(example)
    for name, field in schema["properties"].items():
        for example in field["examples"]:
            # A stored template stands in place of what a mail says by itself.
            own = {"subject": "", "text": None} if name == "template" else {"html": "x"}
            Email.model_validate({**GOOD, **own, name: example})


@given(st.emails())
def test_the_short_cut_agrees_with_the_full_check(address: str) -> None:
    try:
        full = addresses._checked(address)
    except ValueError:
        full = None
    match = addresses._PLAIN.fullmatch(address)
    if match is not None and full is not None:
        assert addresses.wire_form(address) == full


@given(st.text(st.sampled_from('aA0.-_@+xn!"(),:;<>[] \t\r\né'), max_size=30))
def test_the_short_cut_lets_nothing_through_that_the_full_check_refuses(address: str) -> None:
    if addresses._PLAIN.fullmatch(address):
        addresses._checked(address)


@given(st.text(max_size=40), st.sampled_from(["{}@example.org", "a@{}.org", "{}", "x <{}@b.org>"]))
def test_no_address_can_break_out_of_its_command(text: str, form: str) -> None:
    try:
        email = Email.model_validate({**GOOD, "to": form.format(text)})
    except ValidationError:
        return
    for box in email.to:
        assert not set(box.address) & set('<> \t\r\n\x00"(),:;\\[]'), box.address
        assert box.domain.isascii()


@pytest.mark.parametrize("hostile", [" " * 500_000, "a " * 250_000, "<" * 500_000, '"' * 500_001, "a@b.org," * 60_000, "a." * 250_000 + "@x.org"])  # fmt: skip
@pytest.mark.timeout(10)
def test_hostile_lists_are_refused_quickly(hostile: str) -> None:
    started = time.thread_time()
    with pytest.raises(ValidationError):
        Email.model_validate({**GOOD, "to": hostile})
    with pytest.raises(ValidationError):
        Email.model_validate({**GOOD, "to": [hostile]})
    assert time.thread_time() - started < 2


def test_addresses_of_one_international_domain_cost_it_once() -> None:
    began = time.process_time()
    for number in range(2_000):
        assert (
            addresses.wire_form(f"a{number}@bücher.example") == f"a{number}@xn--bcher-kva.example"
        )
    assert time.process_time() - began < 0.3  # a millisecond each, where every one is encoded


@pytest.mark.parametrize(
    "domain", ["ü" * 60 + ".example", "ü" * 200 + ".de", ".".join(["ü" * 30] * 8), "a" * 64 + ".de"]
)
def test_a_domain_that_is_too_long_is_refused_before_it_is_encoded(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(addresses, "validate_email")
    with pytest.raises(ValueError, match="is not an email address: its domain is too long"):
        addresses.wire_form(f"a@{domain}")


def test_what_is_short_once_it_is_composed_is_not_too_long() -> None:
    composed, decomposed = "ö" * 40, "o\u0308" * 40
    expected = addresses.wire_form(f"a@{composed}.example")
    assert addresses.wire_form(f"a@{decomposed}.example") == expected
    assert addresses.wire_form("a@bücher。example") == "a@xn--bcher-kva.example"
