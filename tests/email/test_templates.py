"""Mails whose subject and bodies are templates, rendered in a process of their own."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

from tasks.outcomes import Failed, Succeeded
from workers.isolation.pool import IsolationPool

if TYPE_CHECKING:
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay


async def _run(jobs: Jobs, **payload: Any) -> Any:
    async with IsolationPool(jobs.settings, size=1) as isolation:

        async def isolate(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            return await isolation.call(name, arguments, 20.0)

        return await jobs.run(context={"isolate": isolate}, **payload)


async def test_templates_are_filled_in(jobs: Jobs, relay: ScriptedRelay) -> None:
    outcome = await _run(
        jobs,
        subject="Grüße, {{ name }}",
        text="{{ name }} & co",
        html="<p>{{ name }} {{ more }}</p>",
        variables={"name": "Zoë", "more": "<b>"},
    )
    assert isinstance(outcome, Succeeded), outcome
    parsed = message_from_bytes(relay.mails[0].data, policy=policy.default)
    assert parsed["Subject"] == "Grüße, Zoë"
    text, html = parsed.iter_parts()
    assert text.get_content().strip() == "Zoë & co"
    assert html.get_content().strip() == "<p>Zoë &lt;b&gt;</p>"


async def test_a_missing_variable_fails_at_once(jobs: Jobs, relay: ScriptedRelay) -> None:
    outcome = await _run(jobs, text="{{ nobody }}", variables={})
    assert isinstance(outcome, Failed)
    assert "nobody" in outcome.reason
    assert relay.connections == 0


async def test_a_variable_cannot_bring_a_header_along(jobs: Jobs, relay: ScriptedRelay) -> None:
    outcome = await _run(jobs, subject="{{ s }}", variables={"s": "x\r\nBcc: evil@example.org"})
    assert isinstance(outcome, Failed)
    assert "The rendered subject is not valid" in outcome.reason
    assert relay.mails == []


async def test_braces_without_variables_stay_as_they_are(jobs: Jobs, relay: ScriptedRelay) -> None:
    assert isinstance(await jobs.run(subject="{{ name }}"), Succeeded)
    assert b"Subject: {{ name }}\r\n" in relay.mails[0].data
