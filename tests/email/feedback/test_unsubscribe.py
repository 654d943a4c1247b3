"""One-click links and their header fields."""

from __future__ import annotations

import base64
import os
import re
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingsError
from tasks.email import headers
from tasks.email.feedback import unsubscribe, verp
from tests.email.feedback.samples_of import MESSAGE, SECRET

BASE = "https://mail.example.com/unsubscribe"


def new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def made(setting: str = SECRET, tenant: str = "acme", address: str = "ada@example.org") -> str:
    return unsubscribe.make(setting, tenant=tenant, message_id=MESSAGE, address=address)


@given(
    message_id=st.uuids(),
    tenant=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True),
    address=st.emails(),
)
def test_there_and_back(message_id: UUID, tenant: str, address: str) -> None:
    token = unsubscribe.make(SECRET, tenant=tenant, message_id=message_id, address=address)
    assert re.fullmatch(r"[A-Za-z0-9_-]{60,180}", token)
    link = unsubscribe.read(SECRET, token)
    assert link is not None
    assert (link.tenant, link.message_id) == (tenant, message_id)
    assert link.is_of(address.upper())
    assert not link.is_of(f"x{address}")


def test_a_link_does_not_show_the_address() -> None:
    signed = base64.urlsafe_b64decode(made() + "==")
    assert b"ada" not in signed
    assert "key" not in repr(unsubscribe.read(SECRET, made()))


@settings(deadline=None)
@given(data=st.data())
def test_no_letter_can_be_changed(data: st.DataObject) -> None:
    token = made()
    position = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABab01-_"))
    changed = token[:position] + letter + token[position + 1 :]
    assert (unsubscribe.read(SECRET, changed) is None) == (changed != token)


@given(token=st.text(max_size=300))
def test_any_text_is_just_no_token(token: str) -> None:
    assert unsubscribe.read(SECRET, token) is None


def test_both_secrets_hold_while_they_are_rotated() -> None:
    old, new = new_secret(), new_secret()
    link = unsubscribe.read(f"{new} {old}", made(old))
    assert link is not None
    assert link.is_of("ada@example.org")
    assert made(f"{new} {old}") == made(new)
    assert unsubscribe.read(new, made(old)) is None


def test_a_link_is_nothing_to_another_tenant_and_no_return_path() -> None:
    assert made(tenant="acme") != made(tenant="other")
    assert verp.read(verp.keys_of(SECRET), made()[:48]) is None


def test_without_a_secret_there_are_no_links() -> None:
    with pytest.raises(SettingsError):
        made("")
    assert unsubscribe.read("", made()) is None


def test_the_header_fields() -> None:
    token = unsubscribe.make(SECRET, tenant="t" * 63, message_id=uuid4(), address="ada@example.org")
    values = unsubscribe.header_values(
        base_url=f"{BASE}/", token=token, mailto="unsubscribe@mail.example.com"
    )
    assert values == {
        "List-Unsubscribe": f"<{BASE}/{token}>, <mailto:unsubscribe@mail.example.com?subject={token}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    for name, value in values.items():
        assert headers.refusal(name, value) is None
        unfolded = re.sub(r"\r\n ", " ", headers.custom(name, value))
        assert unfolded == f"{name}: {value}\r\n"


@pytest.mark.parametrize(
    "url",
    ["http://mail.example.com", "mailto:a@example.org", "https://", "https://x/?a=b", "https://x/#a",
     "https://x/>", "https://x/a b", "https://x/\r\nX: y", "https://ü.example"],
)  # fmt: skip
def test_a_url_that_cannot_be_clicked(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        unsubscribe.header_values(base_url=url, token="t")


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n'
)


@pytest.mark.parametrize(
    ("content_type", "body", "clicked"),
    [
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=One-Click", True),
        ("application/x-www-form-urlencoded", b"a=b&List-Unsubscribe=One-Click", True),
        ("multipart/form-data; boundary=b", FORM, True),
        ("application/x-www-form-urlencoded", b"", False),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=No", False),
        ("application/x-www-form-urlencoded", b"&" * 2_000, False),
        ("application/x-www-form-urlencoded", b"a=b&" * 500, False),
        ("multipart/form-data; boundary=b", b"One-Click", False),
    ],
)
def test_only_one_click_unsubscribes(content_type: str, body: bytes, clicked: bool) -> None:
    assert unsubscribe.is_one_click(content_type=content_type, body=body) is clicked
