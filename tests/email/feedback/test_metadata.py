"""Our message's id on its way to a provider and back."""

from __future__ import annotations

import json

import pytest

from tasks.email.feedback import metadata
from tasks.email.feedback.providers import brevo, mailgun, postmark, sendgrid, ses
from tests.email.feedback.providers.test_ses import BOUNCE as SES
from tests.email.feedback.providers.test_ses import MAIL, envelope, read
from tests.email.feedback.providers.test_shared_secret import (
    BREVO_BOUNCE,
    POSTMARK_BOUNCE,
    of_brevo,
    of_postmark,
)
from tests.email.feedback.providers.test_signed import BOUNCE, FAILED, of_mailgun, of_sendgrid
from tests.email.feedback.samples_of import MESSAGE


def test_every_provider_has_a_header_and_a_reader() -> None:
    readers = {module.PROVIDER for module in (brevo, mailgun, postmark, sendgrid, ses)}
    assert readers == metadata.PROVIDERS


@pytest.mark.parametrize("provider", sorted(metadata.PROVIDERS))
async def test_there_and_back(provider: str) -> None:
    name, value = metadata.header(provider, MESSAGE)
    assert len(f"{name}: {value}") < 200
    assert value.isascii()
    if provider == "brevo":
        batch = of_brevo({**BREVO_BOUNCE, "X-Mailin-custom": value})
    elif provider == "mailgun":
        batch = of_mailgun({**FAILED, "user-variables": json.loads(value)})
    elif provider == "postmark":
        key = name.removeprefix("X-PM-Metadata-")
        batch = of_postmark({**POSTMARK_BOUNCE, "Metadata": {key: value}})
    elif provider == "sendgrid":
        plain = {k: v for k, v in BOUNCE.items() if k != metadata.KEY}
        batch = of_sendgrid({**plain, **json.loads(value)["unique_args"]})
    else:
        key, _, tag = value.partition("=")
        batch = await read(envelope({**SES, "mail": {**MAIL, "tags": {key: [tag]}}}))
    assert {event.relais_id for event in batch.events} == {MESSAGE}
