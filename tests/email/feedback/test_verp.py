"""Return paths that name their message."""

from __future__ import annotations

import base64
import os
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingsError
from tasks.email.feedback import verp
from tests.email.feedback.samples_of import MESSAGE, SECRET


def new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


KEYS = verp.keys_of(SECRET)


@given(message_id=st.uuids())
def test_there_and_back_whatever_a_mail_system_does_to_its_letters(message_id: UUID) -> None:
    path = verp.make(KEYS, message_id=message_id, domain="mail.example.com")
    local, _, domain = path.partition("@")
    assert len(local) == 55
    assert domain == "mail.example.com"
    for spelled in (path, path.upper(), path.title(), f"<{path}>", f"rfc822;{path}"):
        token = verp.token_in(spelled)
        assert token is not None
        assert verp.read(KEYS, token) == message_id


def test_a_token_stays_the_same_from_release_to_release() -> None:
    """Bounces come days after the mail: this is the one in the samples."""
    assert verp.token(KEYS, MESSAGE) == "agmmbxqaabyabaaaaaaaaaaaafcwf53skffuu6y67k6u4ys7"


@settings(deadline=None)
@given(position=st.integers(0, 47), letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_no_letter_can_be_changed(position: int, letter: str) -> None:
    token = verp.token(KEYS, MESSAGE)
    changed = token[:position] + letter + token[position + 1 :]
    assert (verp.read(KEYS, changed) is None) == (changed != token)


def test_both_secrets_hold_while_they_are_rotated() -> None:
    old, new = new_secret(), new_secret()
    message_id = uuid4()
    before = verp.token(verp.keys_of(old), message_id)
    rotating = verp.keys_of(f"{new} {old}")
    assert verp.read(rotating, before) == message_id
    after = verp.token(rotating, message_id)
    assert after == verp.token(verp.keys_of(new), message_id)
    assert verp.read(verp.keys_of(new), before) is None


@pytest.mark.parametrize(
    "token", ["", "a" * 47, "a" * 48, "a" * 49, "ä" * 48, "1" * 48, "a" * 47 + "\n"]
)
def test_what_is_no_token(token: str) -> None:
    assert verp.read(KEYS, token) is None


def test_without_a_secret_nothing_is_made_and_nothing_believed() -> None:
    with pytest.raises(SettingsError, match="RELAIS_CALLBACK_SECRET"):
        verp.token((), MESSAGE)
    assert verp.read((), verp.token(KEYS, MESSAGE)) is None


def test_an_address_of_others_has_no_token() -> None:
    assert verp.token_in("bounce+short@example.com") is None
    assert verp.token_in("x" * 100_000) is None
    assert verp.token_in(f"notbounce+{verp.token(KEYS, MESSAGE)}@example.com") is None
