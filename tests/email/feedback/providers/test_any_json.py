"""A provider, or who knows its secret, may send any JSON: an event, a refusal, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.email.feedback import classify
from tasks.email.feedback.event import Batch
from tasks.errors import FeedbackError
from tests.email.feedback.providers.test_ses import BOUNCE as SES
from tests.email.feedback.providers.test_ses import envelope, read
from tests.email.feedback.providers.test_shared_secret import (
    BREVO_BOUNCE,
    POSTMARK_BOUNCE,
    of_brevo,
    of_postmark,
)
from tests.email.feedback.providers.test_signed import BOUNCE, FAILED, of_mailgun, of_sendgrid

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
PROVIDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "brevo": (of_brevo, BREVO_BOUNCE),
    "postmark": (of_postmark, POSTMARK_BOUNCE),
    "mailgun": (of_mailgun, FAILED),
    "sendgrid": (of_sendgrid, BOUNCE),
}


def look_at(batch: Batch) -> None:
    assert batch.replay_id
    for event in batch.events:
        assert event.id
        assert len(event.recipient or "") <= 500
        assert classify.of_event(event).why.endswith(".")


def changed(told: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """`told` with some of its values, at any depth, replaced."""
    made: dict[str, Any] = json.loads(json.dumps(told))
    for _ in range(data.draw(st.integers(1, 3))):
        at = made
        while True:
            key = data.draw(st.sampled_from(sorted(at)))
            if isinstance(at[key], dict) and at[key] and data.draw(st.booleans()):
                at = at[key]
                continue
            at[key] = data.draw(JSON)
            break
    return made


@pytest.mark.parametrize("name", PROVIDERS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_value_in_any_field(name: str, data: st.DataObject) -> None:
    tell, told = PROVIDERS[name]
    try:
        look_at(tell(changed(told, data)))
    except FeedbackError:
        return


@pytest.mark.parametrize("name", PROVIDERS)
@settings(deadline=None, max_examples=50)
@given(told=JSON)
def test_any_json(name: str, told: object) -> None:
    try:
        look_at(PROVIDERS[name][0](told))
    except FeedbackError:
        return


@settings(deadline=None, max_examples=100)
@given(data=st.data())
async def test_any_value_in_an_event_of_ses(data: st.DataObject) -> None:
    try:
        look_at(await read(envelope(changed(SES, data))))
    except FeedbackError:
        return
