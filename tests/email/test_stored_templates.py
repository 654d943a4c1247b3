"""Mails from stored templates: which version, which defaults, and the same bytes again."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from ledger import database as ledger_database
from ledger import defaults, ids, templates
from ledger.templates import Compiled, Content, Note
from runtime.settings import Settings
from tasks.email.payload import Email
from tasks.email.send import send
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded
from tasks.templates import markup, stored
from tests.email.scripted_relay import TAKE_AND_DROP
from tests.waiting import wait_for
from workers.isolation.pool import IsolationPool

if TYPE_CHECKING:
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay

HTML = "<p>Hello {{ name }}</p><p>{{ footer }}</p>"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}


async def save(jobs: Jobs, **changes: Any) -> int:
    given: dict[str, Any] = {"subject": "Hello {{ name }}", "html": HTML, "text": None} | changes
    made = markup.compile_parts(given)
    content = Content(mjml=None, inlines_css=False, variables=SCHEMA, **given)
    compiled = Compiled(made["html"], made["text"], tuple(made["mentions"]))
    async with jobs.database.begin() as connection:
        saved = await templates.save(
            connection, tenant="default", name="hello", content=content, compiled=compiled, by="ada"
        )
    return saved.version


async def set_footer(jobs: Jobs, value: object) -> None:
    async with jobs.database.begin() as connection:
        await defaults.put(
            connection, tenant="default", template="", variable="footer", value=value, by="ada"
        )


async def run(jobs: Jobs, reference: str = "hello", **more: Any) -> Any:
    payload = {"subject": "", "text": None, "variables": {"name": "Zoë"}} | more
    return await jobs.run(template=reference, **payload)


def parts(data: bytes) -> tuple[str, list[str]]:
    parsed = message_from_bytes(data, policy=policy.default)
    texts = [part.get_content().replace("\r\n", "\n").strip() for part in parsed.iter_parts()]
    return parsed["Subject"], texts


async def test_a_mail_is_made_from_the_newest_version(jobs: Jobs, relay: ScriptedRelay) -> None:
    await set_footer(jobs, "<Bye>")
    await save(jobs)
    outcome = await run(jobs)
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.result is not None
    assert outcome.result["template"] == "hello@1"
    assert parts(relay.mails[0].data) == (
        "Hello Zoë",
        ["Hello Zoë\n\n<Bye>", "<p>Hello Zoë</p><p>&lt;Bye&gt;</p>"],
    )
    async with jobs.database.connect() as connection:
        found = await templates.find(connection, tenant="default", name="hello")
    assert found.used_at is not None
    assert await save(jobs, subject="Good day") == 2

    async def is_seen() -> bool:
        await run(jobs)
        return parts(relay.mails[-1].data)[0] == "Good day"

    await wait_for(is_seen, within_s=5 * stored.LATEST_S)
    assert (await run(jobs, "hello@1")).result["template"] == "hello@1"
    assert parts(relay.mails[-1].data)[0] == "Hello Zoë"


async def test_it_is_rendered_in_a_process_of_its_own(jobs: Jobs, relay: ScriptedRelay) -> None:
    await save(jobs, html=None, text="{{ name }}{% for a in range(3) %}!{% endfor %}")
    asked: list[str] = []
    async with IsolationPool(jobs.settings, size=1) as isolation:

        async def isolate(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            asked.append(name)
            return await isolation.call(name, arguments, 20.0)

        assert isinstance(await run(jobs, context={"isolate": isolate}), Succeeded)
    assert asked == ["render"]  # nothing is compiled for a mail
    sent = message_from_bytes(relay.mails[0].data, policy=policy.default)
    assert sent.get_content().strip() == "Zoë!!!"


async def test_the_second_attempt_sends_the_same_bytes(
    jobs: Jobs, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_footer(jobs, "before")
    await save(jobs)
    relay.next("DOT", TAKE_AND_DROP)
    job_id = ids.new()
    assert isinstance(await run(jobs, job_id=job_id), RetryLater)
    await save(jobs, html="<p>Other {{ name }}</p>")
    await set_footer(jobs, "after")
    # As another worker would find it.
    monkeypatch.setattr(stored, "_all_stored", {})
    outcome = await run(jobs, job_id=job_id, attempt=2)
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.result is not None
    assert outcome.result["template"] == "hello@1"
    first, second = relay.mails
    assert first.data == second.data
    assert "before" in parts(second.data)[1][0]
    await run(jobs)
    assert "Other" in parts(relay.mails[2].data)[1][0]


async def test_two_attempts_at_once_agree(jobs: Jobs, relay: ScriptedRelay) -> None:
    """The claim was lost while the first one rendered: what was noted meanwhile counts."""
    await set_footer(jobs, "new")
    await save(jobs)
    await save(jobs, subject="Second")
    job_id = ids.new()
    await jobs.context(job_id, attempt=1)
    async with jobs.database.begin() as connection:
        await templates.note(connection, [(job_id, Note("hello", 1, {"footer": "old"}))])
    assert isinstance(await run(jobs, job_id=job_id), Succeeded)
    assert parts(relay.mails[0].data)[0] == "Hello Zoë"
    assert "old" in parts(relay.mails[0].data)[1][0]


async def test_a_template_that_cannot_be_filled_may_be_corrected(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    await save(jobs)
    job_id = ids.new()
    without = await run(jobs, job_id=job_id, variables={})
    assert isinstance(without, Failed)
    assert without.reason.startswith("The template hello@1 needs name.")
    unset = await run(jobs, job_id=job_id, attempt=2)
    assert isinstance(unset, Failed)
    assert "the variable 'footer' is missing" in unset.reason
    assert relay.connections == 0
    await save(jobs, html="<p>{{ name }}</p>")
    outcome = await run(jobs, "hello@2", job_id=job_id, attempt=3)
    assert isinstance(outcome, Succeeded), outcome


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nobody", "There is no template 'nobody'."),
        ("hello@7", "There is no version 7 of a template 'hello'."),
        ("hello", "The template 'hello' is archived."),
    ],
)
async def test_what_is_not_there_fails_with_a_sentence(
    jobs: Jobs, relay: ScriptedRelay, reference: str, reason: str
) -> None:
    await set_footer(jobs, "Bye")
    await save(jobs)
    async with jobs.database.begin() as connection:
        await templates.archive(connection, tenant="default", name="hello")
    outcome = await run(jobs, reference)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith(reason)
    assert relay.connections == 0
    assert isinstance(await run(jobs, "hello@1"), Succeeded)


async def test_a_value_of_another_type_is_refused(jobs: Jobs, relay: ScriptedRelay) -> None:
    await save(jobs)
    outcome = await run(jobs, variables={"name": 5, "footer": "x"})
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("variables.name should be a text.")
    assert relay.connections == 0


async def test_an_image_needs_html_that_shows_it(jobs: Jobs, relay: ScriptedRelay) -> None:
    await save(jobs, html=None, text="Hello {{ name }}")
    image = {"filename": "a.png", "content": "SGk=", "content_id": "logo"}
    outcome = await run(jobs, attachments=[image])
    assert isinstance(outcome, Failed)
    assert "needs html that shows it" in outcome.reason
    assert relay.connections == 0


async def test_a_mail_whose_job_is_gone_is_not_sent(jobs: Jobs, relay: ScriptedRelay) -> None:
    await set_footer(jobs, "Bye")
    await save(jobs)
    job_id = ids.new()
    context = await jobs.context(job_id, attempt=1)
    async with jobs.database.begin() as connection:
        await connection.execute(text("DELETE FROM relais.job_bodies"))
    mail = {"from": "a@example.org", "to": "b@example.org", "template": "hello"}
    email = Email.model_validate(mail | {"variables": {"name": "Ada"}})
    assert isinstance(await send(email, context), Snooze)
    assert relay.connections == 0


async def test_without_a_ledger_the_mail_waits(jobs: Jobs, relay: ScriptedRelay) -> None:
    nowhere = ledger_database.engine(
        Settings.model_validate({"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    )
    outcome = await run(jobs, context={"database": nowhere})
    assert isinstance(outcome, Snooze)
    assert relay.connections == 0
    await nowhere.dispose()


async def test_uses_of_defaults_are_counted_together(
    jobs: Jobs, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "COUNT_EVERY_S", 0.3)
    await set_footer(jobs, "Bye")
    await save(jobs)
    writes: list[dict[int, int]] = []
    counted = defaults.count_uses

    async def watched(connection: Any, uses: Any) -> None:
        writes.append(dict(uses))
        await counted(connection, uses)

    monkeypatch.setattr(defaults, "count_uses", watched)
    for _ in range(3):
        await run(jobs)
    await run(jobs, variables={"name": "Ada", "footer": "mine"})
    await stored.of(jobs.database).flush()
    assert await uses(jobs) == 3
    assert len(writes) < 3
    assert len(relay.mails) == 4


async def test_what_was_counted_is_written_before_a_worker_ends(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    await set_footer(jobs, "Bye")
    await save(jobs)
    await run(jobs)
    assert await uses(jobs) == 0
    await stored.leave(jobs.database)
    assert await uses(jobs) == 1
    assert len(relay.mails) == 1


async def uses(jobs: Jobs) -> int:
    async with jobs.database.connect() as connection:
        (row,) = await defaults.list_all(
            connection, tenant="default", template=None, after=("", 0), limit=10
        )
    return row.used
