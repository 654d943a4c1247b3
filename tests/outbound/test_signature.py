from __future__ import annotations

import base64
import hashlib
import hmac
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingsError
from tasks.outbound import signature
from tasks.outbound.signature import WrongSignature

# The example of the Standard Webhooks specification and its libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {
    "webhook-id": MESSAGE_ID,
    "webhook-timestamp": str(TIMESTAMP),
    "webhook-signature": SIGNATURE,
}


def new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def test_the_vector_of_the_specification() -> None:
    made = signature.headers_of(
        message_id=MESSAGE_ID,
        body=BODY,
        secrets=signature.secrets_of(SECRET),
        timestamp=TIMESTAMP,
    )
    assert made == HEADERS
    signature.verify(secret=SECRET, headers=HEADERS, body=BODY, now=TIMESTAMP)


@pytest.mark.parametrize(
    ("changed", "body", "now"),
    [
        ({}, b'{"test": 2432232315}', TIMESTAMP),
        ({"webhook-id": "msg_other"}, BODY, TIMESTAMP),
        ({"webhook-timestamp": str(TIMESTAMP + 1)}, BODY, TIMESTAMP),
        ({"webhook-timestamp": "soon"}, BODY, TIMESTAMP),
        ({"webhook-signature": ""}, BODY, TIMESTAMP),
        ({"webhook-signature": "v1,"}, BODY, TIMESTAMP),
        ({"webhook-signature": "v1a," + SIGNATURE[3:]}, BODY, TIMESTAMP),
        ({"webhook-signature": "v1,ü"}, BODY, TIMESTAMP),
        ({}, BODY, TIMESTAMP + 301),
        ({}, BODY, TIMESTAMP - 301),
    ],
)
def test_what_is_not_accepted(changed: dict[str, str], body: bytes, now: float) -> None:
    with pytest.raises(WrongSignature):
        signature.verify(secret=SECRET, headers={**HEADERS, **changed}, body=body, now=now)


def test_a_missing_header_is_not_accepted() -> None:
    for name in HEADERS:
        headers = {other: value for other, value in HEADERS.items() if other != name}
        with pytest.raises(WrongSignature, match="no complete signature"):
            signature.verify(secret=SECRET, headers=headers, body=BODY, now=TIMESTAMP)


@settings(deadline=None)  # a busy machine is no error
@given(body=st.binary(max_size=200), timestamp=st.integers(0, 2**40))
def test_every_secret_of_a_rotation_is_enough(body: bytes, timestamp: int) -> None:
    old, new = new_secret(), new_secret()
    headers = signature.headers_of(
        message_id="msg_1",
        body=body,
        secrets=signature.secrets_of(f"{new} {old}"),
        timestamp=timestamp,
    )
    assert headers["webhook-signature"].count("v1,") == 2
    for receiver in (old, new, f"{new} {old}"):
        signature.verify(secret=receiver, headers=headers, body=body, now=timestamp)
    with pytest.raises(WrongSignature):
        signature.verify(secret=new_secret(), headers=headers, body=body, now=timestamp)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_???", "password", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_names_the_setting(secret: str) -> None:
    with pytest.raises(SettingsError, match="RELAIS_CALLBACK_SECRET"):
        signature.secrets_of(secret)


def test_no_secret_signs_nothing() -> None:
    assert signature.secrets_of("  ") == ()


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://n8n.example.com/webhook-waiting/17?signature=x", True),
        ("https://N8N.example.com:443", True),
        ("https://n8n.example.com./x", True),
        ("https://n8n.example.com:5678/x", False),
        ("http://n8n.example.com/x", False),
        ("https://example.com/x", False),
    ],
)
def test_an_endpoint_is_scheme_host_and_port(url: str, same: bool) -> None:
    of = signature.endpoint_secrets(SECRET, tenant="acme", url="https://n8n.example.com")
    assert (signature.endpoint_secrets(SECRET, tenant="acme", url=url) == of) == same


def test_the_secret_of_an_endpoint_stays_the_same_from_release_to_release() -> None:
    """Receivers keep it: this one was made when it was first derived."""
    (secret,) = signature.endpoint_secrets(SECRET, tenant="acme", url="https://n8n.example.com/x")
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    words = b"relais callback v1\nacme\nhttps://n8n.example.com"
    made = base64.b64encode(hmac.digest(key, words, hashlib.sha256)).decode()
    assert secret == f"whsec_{made}"


def test_two_masters_make_two_secrets_of_an_endpoint_in_their_order() -> None:
    old, new = new_secret(), new_secret()
    made = signature.endpoint_secrets(f"{new} {old}", tenant="acme", url="https://x.example")
    apart = [
        signature.endpoint_secrets(each, tenant="acme", url="https://x.example")
        for each in (new, old)
    ]
    assert [(secret,) for secret in made] == apart
