"""A relay that must not be used parks its mails once, and wakes them once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from ledger import ids, lanes, relay_states
from tasks import kinds
from tasks.email import logins
from tasks.outcomes import RetryLater, Snooze, Succeeded
from tests.email.conftest import MAIL
from tests.email.scripted_relay import Act
from tests.ledger import jobs as ledger_jobs
from tests.waiting import wait_for
from tests.workers.process import WorkerProcess

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay

LANE = "default/relay:default"
QUEUES = ("template", "bulk")


async def _pause_of(database: AsyncEngine, lane: str = LANE) -> Any:
    """The active pause of the lane in every queue, if there is one."""
    statement = text(
        "SELECT *, extract(epoch FROM paused_until - clock_timestamp())::float8 AS left_s"
        " FROM relais.lane_settings WHERE queue = '*' AND lane = :lane AND paused_at IS NOT NULL"
        " AND coalesce(paused_until > clock_timestamp(), true)"
    )
    async with database.connect() as connection:
        return (await connection.execute(statement, {"lane": lane})).one_or_none()


async def _claimable(database: AsyncEngine) -> set[str]:
    """The lanes from which something could be claimed in any queue."""
    async with database.connect() as connection:
        heads = [await lanes.look(connection, queue=queue, kinds=None) for queue in QUEUES]
    return {head.lane for of_queue in heads for head in of_queue}


def _mail(**fields: Any) -> Any:
    payload = {**MAIL, **fields.pop("payload", {})}
    values = {"kind": "email.send", "queue": "template", "timeout_s": 900.0, "max_attempts": 8}
    lane = kinds.lane_of("email.send", fields.get("tenant", "default"), payload)
    return ledger_jobs.new_job(**{**values, "payload": payload, "lane": lane, **fields})


async def test_a_refused_login_parks_the_relays_mails_in_every_queue_and_no_others(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    await ledger_jobs.accept(
        jobs.database,
        *(_mail(queue=queue) for queue in QUEUES),
        _mail(payload={"relay": "other"}),
        _mail(tenant="acme"),
    )
    relay.next("MAIL", "530 5.7.0 Log in first")
    outcome = await jobs.run()
    assert isinstance(outcome, Snooze)
    assert "the relay default is stopped: 530 5.7.0 Log in first" in outcome.reason
    pause = await _pause_of(jobs.database)
    assert (pause.paused_until, pause.paused_by) == (None, "relay")
    assert pause.reason == "530 5.7.0 Log in first"
    assert await _claimable(jobs.database) == {"default/relay:other", "acme/relay:default"}
    async with jobs.database.begin() as connection:
        assert await relay_states.resume(connection, tenant="default", name="default")
    assert LANE in await _claimable(jobs.database)


async def test_a_wait_that_a_relay_asks_for_parks_its_mails_until_it_ends(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(backoff_s=0.8)
    await ledger_jobs.accept(jobs.database, _mail())
    relay.next("RCPT", "421 4.3.2 Too busy")
    assert isinstance(await jobs.run(), RetryLater)
    pause = await _pause_of(jobs.database)
    assert 0 < pause.left_s <= 0.8
    assert LANE not in await _claimable(jobs.database)

    async def is_awake() -> bool:
        return LANE in await _claimable(jobs.database)

    await wait_for(is_awake)


async def test_a_relay_that_cannot_be_reached_parks_its_mails(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.next("CONNECT", "554 5.3.2 Not today")
    assert isinstance(await jobs.run(), Snooze)
    assert (await _pause_of(jobs.database)).left_s > 3


async def test_a_stop_outlasts_a_wait(jobs: Jobs) -> None:
    named = {"tenant": "default", "name": "default"}
    wait: dict[str, Any] = {**named, "base_s": 0.1, "cap_s": 1, "reason": "421"}
    async with jobs.database.begin() as connection:
        await relay_states.back_off(connection, **wait)
        await relay_states.stop(connection, **named, reason="535")
    await wait_for(lambda: _has_waited(jobs))
    async with jobs.database.begin() as connection:
        await relay_states.back_off(connection, **wait)  # from a mail under way
    pause = await _pause_of(jobs.database)
    assert (pause.paused_until, pause.reason) == (None, "535")


async def _has_waited(jobs: Jobs) -> bool:
    async with jobs.database.connect() as connection:
        [known] = (await relay_states.look(connection, [("default", "default")])).values()
    return known.backoff_s == 0


async def test_a_pause_of_an_operators_is_neither_shortened_nor_ended(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(backoff_s=0.05)
    async with jobs.database.begin() as connection:
        await lanes.pause(connection, lane=LANE, by="ada", reason="a campaign went wrong")
    relay.next("RCPT", "421 4.3.2 Too busy")
    await jobs.run()
    await wait_for(lambda: _has_waited(jobs))
    async with jobs.database.begin() as connection:
        await relay_states.resume(connection, tenant="default", name="default")
    pause = await _pause_of(jobs.database)
    assert (pause.paused_until, pause.paused_by) == (None, "ada")


async def test_a_mail_that_finds_the_pause_missing_makes_it_anew(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    """An operator has woken the lane, and not the relay."""
    async with jobs.database.begin() as connection:
        await relay_states.stop(connection, tenant="default", name="default", reason="535")
        assert await lanes.resume(connection, lane=LANE)
    assert isinstance(await jobs.run(), Snooze)
    assert await _pause_of(jobs.database)
    assert relay.connections == 0


async def test_a_relay_that_takes_mail_again_leaves_no_pause_behind(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(backoff_s=0.05)
    relay.next("CONNECT", "421 4.3.2 Busy")
    job_id = ids.new()
    assert isinstance(await jobs.run(job_id), Snooze)
    await wait_for(lambda: _has_waited(jobs))
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    async with jobs.database.connect() as connection:
        found = await connection.execute(text("SELECT paused_at, reason FROM relais.lane_settings"))
        assert [tuple(row) for row in found] == [(None, None)]


@pytest.mark.parametrize("login", ["ada:right", ""])
async def test_a_login_that_was_put_right_wakes_the_mails(
    jobs: Jobs, relay: ScriptedRelay, login: str
) -> None:
    relay.logins = {"ada": "right"}
    jobs.smtp_url = relay.url(login="ada:wrong")
    assert isinstance(await jobs.run(), Snooze)

    def settings(url: str) -> Settings:
        return jobs.settings.model_copy(update={"smtp_url": SecretStr(url)})

    unchanged = settings(jobs.smtp_url)
    assert await logins.resume_changed(jobs.database, unchanged) == 0
    assert await _pause_of(jobs.database)
    assert await logins.resume_changed(jobs.database, settings("")) == 0
    changed = settings(relay.url(login=login))
    assert await logins.resume_changed(jobs.database, changed) == 1
    assert await _pause_of(jobs.database) is None
    assert await logins.resume_changed(jobs.database, changed) == 0


async def test_a_new_login_does_not_cut_short_what_is_left_of_a_wait(jobs: Jobs) -> None:
    named = {"tenant": "default", "name": "default"}
    async with jobs.database.begin() as connection:
        await relay_states.back_off(connection, **named, base_s=60, cap_s=60, reason="421")
        await relay_states.stop(connection, **named, reason="535", login="old")
        assert await relay_states.resume_with_new_login(connection, **named, login="new")
    assert 50 < (await _pause_of(jobs.database)).left_s <= 60


async def test_a_thousand_mails_of_a_stopped_relay_are_parked_once_and_woken_once(
    settings: Settings, database: AsyncEngine, relay: ScriptedRelay
) -> None:
    """B15: they went round and round, 11,976 events in 224 s."""
    count = 1_000
    relay.always("AUTH", "535 5.7.8 Bad credentials")
    relay.logins = {"ada": "right"}
    own = settings.model_copy(update={"smtp_url": SecretStr(relay.url(login="ada:right"))})
    await ledger_jobs.accept(database, *(_mail() for _ in range(count)))
    async with database.connect() as connection:
        events = text("SELECT count(*) FROM relais.job_events WHERE tenant = 'default'")
        states = text("SELECT state::text, count(*) FROM relais.jobs GROUP BY state")

        async def written() -> int:
            return int((await connection.execute(events)).scalar_one())

        async def counts() -> dict[str, int]:
            return {row[0]: row[1] for row in await connection.execute(states)}

        with WorkerProcess(own, "template"):
            await wait_for(lambda: _pause_of(database), within_s=30)

            async def is_still() -> bool:
                return "running" not in await counts()

            await wait_for(is_still)
            parked = await written()
            await asyncio.sleep(3)  # in which the worker looks ten times
            assert await written() == parked, await counts()
            assert parked < count + 200, parked  # those that were claimed before it was known
            relay.behave()
            relay.always("DOT", Act("250 2.0.0 Taken"))
            async with database.begin() as other:
                await relay_states.resume(other, tenant="default", name="default")
                await other.execute(
                    text("UPDATE relais.jobs SET run_at = now() WHERE state = 'scheduled'")
                )

            async def are_sent() -> bool:
                return (await counts()).get("succeeded") == count

            await wait_for(are_sent, within_s=60)
            woken = await written() - parked
        # ready -> running -> succeeded; those that had been claimed came by `scheduled` as well.
        assert woken <= 3 * count
    assert len(relay.mails) == count
