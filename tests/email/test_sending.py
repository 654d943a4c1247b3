"""The kind email.send against a real relay and a real ledger."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING

import pytest

from ledger import ids, suppressions
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded

if TYPE_CHECKING:
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay


async def test_a_mail_is_sent_and_accounted_for(jobs: Jobs, relay: ScriptedRelay) -> None:
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.result == {
        "message_id": f"<{job_id.hex}@example.org>",
        "relay": "default",
        "sent": 1,
        "messages": [
            {
                "recipient": "ada@example.net",
                "role": "to",
                "state": "sent",
                "reply": "250 2.0.0 Taken",
            }
        ],
    }
    [mail] = relay.mails
    assert (mail.sender, mail.recipient) == ("hello@example.org", "ada@example.net")
    message = message_from_bytes(mail.data, policy=policy.default)
    assert message["Message-ID"] == f"<{job_id.hex}@example.org>"
    assert message.get_content() == "Hello Ada\r\n"
    [row] = await jobs.rows(job_id)
    assert (row.state, row.reply_code, row.enhanced_code, row.tries) == ("sent", 250, "2.0.0", 1)
    assert row.dot_sent_at <= row.sent_at


async def test_every_recipient_gets_one_message_and_nobody_sees_bcc(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    outcome = await jobs.run(
        job_id,
        to="a@example.net, B <b@example.net>",
        cc=["c@example.net", "A@example.net"],
        bcc={"address": "d@example.net"},
    )
    assert isinstance(outcome, Succeeded)
    assert sorted(m.recipient for m in relay.mails) == [f"{c}@example.net" for c in "abcd"]
    assert len({m.data for m in relay.mails}) == 1
    assert b"d@example.net" not in relay.mails[0].data
    assert [row.role for row in await jobs.rows(job_id)] == ["to", "to", "cc", "bcc"]
    assert relay.connections <= 3


async def test_connections_are_reused(jobs: Jobs, relay: ScriptedRelay) -> None:
    for _ in range(5):
        assert isinstance(await jobs.run(), Succeeded)
    assert relay.connections == 1
    assert "RSET" not in relay.commands


@pytest.mark.parametrize(
    "spelling", ["ada@straße.example", "ADA@STRAßE.example", "ada@straße。example"]
)
async def test_a_suppressed_address_is_not_written_to_however_it_is_spelt(
    jobs: Jobs, relay: ScriptedRelay, spelling: str
) -> None:
    async with jobs.database.begin() as connection:
        await suppressions.suppress(
            connection, tenant="default", addresses=[spelling], reason="asked us to stop"
        )
    for to in ("ada@straße.example", "ada@xn--strae-oqa.example", "Ada@STRAßE。example"):
        outcome = await jobs.run(to=[to])
        assert isinstance(outcome, Failed)
        assert outcome.reason == "all recipients are suppressed"
    assert not relay.mails


async def test_two_spellings_of_one_address_are_one_recipient(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    outcome = await jobs.run(
        to=["ada@straße.example"], cc=["Ada@xn--strae-oqa.example"], bcc=["ADA@straße。example"]
    )
    assert isinstance(outcome, Succeeded)
    assert len(relay.mails) == 1


async def test_a_refused_recipient_is_suppressed_and_the_connection_stays_usable(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.next("RCPT", "550 5.1.1 No such user")
    outcome = await jobs.run()
    assert isinstance(outcome, Failed)
    assert outcome.reason == "1 of 1 recipients refused: 550 5.1.1 No such user"
    again = await jobs.run(to="ADA@example.net")
    assert isinstance(again, Failed)
    assert again.reason == "all recipients are suppressed"
    other = await jobs.run(to="ada@example.net, bob@example.net")
    assert isinstance(other, Succeeded)
    assert other.result
    assert (other.result["sent"], other.result["suppressed"]) == (1, 1)
    assert relay.connections == 1
    assert relay.commands.count("RSET") == 1


async def test_a_mixture_fails_with_the_count_and_lists_each(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(connections=1)
    relay.next("RCPT", "250 OK", "550 5.7.1 Spam", "250 OK")
    outcome = await jobs.run(to="a@x.org, b@x.org, c@x.org")
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("1 of 3 recipients refused: 550 5.7.1")
    assert outcome.result
    assert [m["state"] for m in outcome.result["messages"]] == ["sent", "failed", "sent"]


async def test_only_the_deferred_recipient_is_tried_again(jobs: Jobs, relay: ScriptedRelay) -> None:
    job_id = ids.new()
    jobs.smtp_url = relay.url(connections=1)
    relay.next("DOT", "250 OK", "451 4.3.0 Later")
    outcome = await jobs.run(job_id, to="a@x.org, b@x.org")
    assert isinstance(outcome, RetryLater)
    assert outcome.delay_s is None
    assert outcome.reason == "1 deferred, 1 sent: 451 4.3.0 Later"
    first = await jobs.rows(job_id)
    assert isinstance(await jobs.run(job_id, attempt=2, to="a@x.org, b@x.org"), Succeeded)
    assert [m.recipient for m in relay.mails] == ["a@x.org", "b@x.org"]
    assert len({m.data for m in relay.mails}) == 1
    assert [row.message_id for row in await jobs.rows(job_id)] == [r.message_id for r in first]


async def test_greylisting_waits_as_the_relay_is_set_up(jobs: Jobs, relay: ScriptedRelay) -> None:
    jobs.smtp_url = relay.url(greylist_s=120)
    relay.next("RCPT", "450 4.7.1 Greylisted")
    outcome = await jobs.run()
    assert isinstance(outcome, RetryLater)
    assert outcome.delay_s
    assert 120 <= outcome.delay_s <= 150


async def test_the_last_try_fails_instead_of_deferring(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.next("RCPT", "452 4.2.2 Mailbox full")
    outcome = await jobs.run(context={"tries_left": 0})
    assert isinstance(outcome, Failed)
    assert "no attempts left: 452 4.2.2 Mailbox full" in outcome.reason


async def test_421_backs_the_relay_off_for_everybody_and_longer_each_time(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(backoff_s=30)
    relay.next("RCPT", "421 4.3.2 Too busy")
    outcome = await jobs.run()
    assert isinstance(outcome, RetryLater)
    assert outcome.delay_s
    assert 29 <= outcome.delay_s <= 38
    other = ids.new()
    snoozed = await jobs.run(other)
    assert isinstance(snoozed, Snooze)
    assert 25 <= snoozed.delay_s <= 38
    assert await jobs.rows(other) == []
    assert relay.connections == 1


async def test_an_unreachable_relay_costs_no_attempt(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.next("CONNECT", "554 5.3.2 Not today")
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Snooze)
    assert "554 5.3.2" in outcome.reason
    assert await jobs.states(job_id) == ["pending"]


async def test_a_refused_login_stops_the_relay_until_it_changes(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.logins = {"ada": "right"}
    jobs.smtp_url = relay.url(login="ada:wrong")
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Snooze)
    assert "535 5.7.8" in outcome.reason
    assert isinstance(await jobs.run(job_id, attempt=2), Snooze)
    assert relay.connections == 1
    jobs.smtp_url = relay.url(login="ada:right")
    assert isinstance(await jobs.run(job_id, attempt=3), Succeeded)
