"""Relay URLs: what they say, and the sentence where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from runtime.errors import SettingsError
from runtime.settings import Settings
from tasks.email import relays


def test_a_full_url() -> None:
    relay = relays.parse(
        "x",
        "smtp+starttls://ada%40x:p%2Fw%C3%A9@mail.example.org?policy=at_most_once&connections=5"
        "&greylist_s=60&dot_timeout_s=30&helo=me.example.org",
    )
    assert (relay.host, relay.port, relay.security) == ("mail.example.org", 587, "starttls")
    assert (relay.user, relay.password) == ("ada@x", "p/wé")
    assert (relay.policy, relay.connections, relay.greylist_s) == ("at_most_once", 5, 60)
    assert (relay.timeouts.dot_s, relay.timeouts.command_s) == (30, 300)
    assert "p/wé" not in repr(relay)


@pytest.mark.parametrize(
    ("url", "port"),
    [("smtp://localhost", 25), ("smtps://h", 465), ("smtp://[::1]:2525", 2525)],
)
def test_ports(url: str, port: int) -> None:
    assert relays.parse("x", url).port == port


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x", "begins with http://"),
        ("smtp://", "must be of the form"),
        ("smtp://h/path", "must be of the form"),
        ("smtp://h:99999", "a port that is not a number"),
        ("smtp://u:secret@mail.example.org", "password in the clear"),
        ("smtps://mail.example.org?verify=no", "only for a relay on this machine"),
        ("smtp://h?policy=exactly_once", "must be one of"),
        ("smtp://h?policy=idempotency_header", "needs idempotency_header"),
        ("smtp://h?idempotency_header=A:B", "invalid idempotency_header"),
        ("smtp://h?conections=5", "unknown option 'conections'"),
        ("smtp://h?connections=0", "must be from 1 to 10000"),
        ("smtp://h?dot_timeout_s=-1", "invalid dot_timeout_s"),
        ("smtp://h?dot_timeout_s=nan", "invalid dot_timeout_s"),
        ("smtp://h?helo=a%0d%0aMAIL", "invalid helo"),
        ("smtps://h?ca=/nowhere.pem", "does not exist"),
    ],
)
def test_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        relays.parse("x", url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_may_go_in_the_clear_on_this_machine() -> None:
    assert relays.parse("x", "smtp://u:p@127.0.0.1").user == "u"


def test_names(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"smtp_url": "smtp://one", "relays": {"two": SecretStr("smtp://two")}, "data_dir": tmp_path}
    )
    assert relays.find(settings, "default").host == "one"
    assert relays.find(settings, "two").host == "two"
    with pytest.raises(SettingsError, match="There is no relay 'three'"):
        relays.find(settings, "three")


def test_the_login_has_a_fingerprint() -> None:
    one, two, none = (relays.parse("x", f"smtps://{u}h") for u in ("a:b@", "a:c@", ""))
    assert one.login != two.login
    assert none.login is None


def test_every_option_is_documented() -> None:
    text = Path("docs/email.md").read_text(encoding="utf-8")
    for option in {*relays._OPTIONS, *relays._TIMEOUTS}:
        assert f"`{option}`" in text, option
