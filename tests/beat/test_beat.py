"""Real beats on a real ledger: each tick once, whoever dies."""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.beat.processes import CANARY_S, beat
from tests.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.settings import Settings

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        yield connection


def scalar(ledger: psycopg.Connection, sql: str, *values: Any) -> Any:
    row = ledger.execute(sql, values).fetchone()
    return row[0] if row else None


def finish_all(ledger: psycopg.Connection) -> None:
    """Cluster in for workers: whatever is open is done."""
    ledger.execute(
        "UPDATE relais.jobs SET state = 'succeeded', finished_at = clock_timestamp(), ready_at = NULL "
        "WHERE state IN ('ready', 'scheduled')"
    )


def ticks(ledger: psycopg.Connection, schedule: str = "system:canary-bulk") -> int:
    count: int = scalar(
        ledger, "SELECT count(*) FROM relais.schedule_ticks WHERE schedule = %s", schedule
    )
    return count


def new_schedule(
    ledger: psycopg.Connection,
    *,
    cron: str = "* * * * *",
    ago: str = "2 minutes",
    kind: str = "template.render",
    name: str = "mine",
) -> str:
    job = f'{{"kind":"{kind}","payload":{{"a":1}},"queue":"template","max_attempts":3,"timeout_s":30,"tags":["x"]}}'
    return str(
        scalar(
            ledger,
            "INSERT INTO relais.schedules (id, name, cron, timezone, job, fired_until) VALUES "
            "(gen_random_uuid(), %s, %s, 'Europe/Paris', %s, clock_timestamp() - %s::interval) RETURNING id",
            name,
            cron,
            job,
            ago,
        )
    )


def test_two_beats_fire_each_tick_once_and_outlive_each_other(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    log = tmp_path / "beat.log"
    with beat(settings, log) as one, beat(settings, log) as other:

        def has(count: int) -> bool:
            finish_all(ledger)
            return ticks(ledger) >= count

        block_until(lambda: has(4), within_s=20, what="four ticks with two beats")
        block_until(
            lambda: scalar(ledger, "SELECT count(*) FROM relais.workers WHERE queue = 'beat'") == 2,
            within_s=10,
            what="both beats in the ledger",
        )
        one.kill()
        one.wait()
        before = ticks(ledger)
        block_until(lambda: has(before + 3), within_s=10, what="ticks after one beat was killed")
        other.send_signal(signal.SIGTERM)
        assert other.wait(timeout=5) == 0
    jobs = scalar(
        ledger, "SELECT count(*) FROM relais.jobs WHERE kind = 'relais.canary' AND queue = 'bulk'"
    )
    assert jobs == ticks(ledger)
    nominal = [
        row[0]
        for row in ledger.execute(
            "SELECT nominal_at FROM relais.schedule_ticks WHERE schedule = 'system:canary-bulk' ORDER BY 1"
        )
    ]
    assert all((at.timestamp() / CANARY_S).is_integer() for at in nominal)
    assert len(set(nominal)) == len(nominal)
    orphans = scalar(
        ledger,
        "SELECT count(*) FROM relais.schedule_ticks t LEFT JOIN relais.jobs j ON j.id = t.job_id WHERE j.id IS NULL",
    )
    assert orphans == 0
    assert scalar(ledger, "SELECT count(*) FROM relais.jobs WHERE tenant <> 'system'") == 0


def test_a_killed_beat_leaves_no_half_tick(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    """SIGKILL again and again in the middle of firing: tick and job are both there or neither."""
    for _ in range(3):
        with beat(settings, tmp_path / "beat.log", RELAIS_CANARY_S="0.02") as process:
            before = ticks(ledger)

            def moved(before: int = before) -> bool:
                finish_all(ledger)
                return ticks(ledger) > before + 3

            block_until(moved, within_s=20, what="some ticks")
            process.kill()
    assert scalar(ledger, "SELECT count(*) FROM relais.schedule_ticks") == scalar(
        ledger, "SELECT count(*) FROM relais.jobs"
    )
    assert scalar(
        ledger, "SELECT count(*) FROM relais.schedule_ticks t JOIN relais.jobs j ON j.id = t.job_id"
    ) == scalar(ledger, "SELECT count(*) FROM relais.jobs")


def test_nothing_piles_up_where_nobody_works(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    log = tmp_path / "beat.log"
    with beat(settings, log):
        block_until(
            lambda: log.read_text().count('"skipped"') >= 8, within_s=20, what="skipped ticks"
        )
    assert (
        scalar(
            ledger,
            "SELECT count(*) FROM relais.jobs WHERE kind = 'relais.canary' AND queue = 'bulk'",
        )
        == 1
    )


def test_a_user_schedule_fires_the_newest_missed_tick_only(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    schedule = new_schedule(ledger, ago="3 hours")
    with beat(settings, tmp_path / "beat.log"), beat(settings, tmp_path / "beat.log"):
        block_until(lambda: ticks(ledger, schedule) == 1, within_s=20, what="the missed tick")
    row = ledger.execute(
        "SELECT tenant, kind, queue, payload, max_attempts, tags, accepted_by, trace_id, traceparent, created_at FROM relais.jobs JOIN relais.job_bodies ON job_id = id WHERE tenant = 'default'"
    ).fetchone()
    assert row is not None
    assert row[:7] == (
        "default",
        "template.render",
        "template",
        {"a": 1},
        3,
        ["x"],
        "schedule:mine",
    )
    assert row[7] in row[8]
    fired_until = scalar(ledger, "SELECT fired_until FROM relais.schedules")
    assert timedelta() <= row[9] - fired_until < timedelta(minutes=1)


def test_a_bad_schedule_does_not_hold_up_the_others(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    broken = new_schedule(ledger, name="broken")
    ledger.execute("UPDATE relais.schedules SET job = '{}' WHERE id = %s", (broken,))
    alien = new_schedule(ledger, name="alien")
    ledger.execute("UPDATE relais.schedules SET timezone = 'Mars/Olympus' WHERE id = %s", (alien,))
    good = new_schedule(ledger, name="good")
    log = tmp_path / "beat.log"
    with beat(settings, log):
        block_until(lambda: ticks(ledger, good) == 1, within_s=20, what="the good schedule's tick")
        block_until(
            lambda: log.read_text().count("schedule.refused") >= 2, within_s=10, what="two refusals"
        )
    assert ticks(ledger, broken) == ticks(ledger, alien) == 0


def test_a_new_schedule_is_noticed_and_a_switched_off_one_is_left_alone(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    off = new_schedule(ledger, name="off")
    ledger.execute("UPDATE relais.schedules SET enabled = false")
    log = tmp_path / "beat.log"
    with beat(settings, log):
        block_until(lambda: ticks(ledger) > 0, within_s=20, what="the beat to run")
        late = new_schedule(ledger, name="late")
        assert (
            block_until(
                lambda: ticks(ledger, late) == 1, within_s=5, what="the new schedule's tick"
            )
            < 3
        )
    assert ticks(ledger, off) == 0


def test_without_redis_ticks_are_fired_all_the_same(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    with beat(settings, tmp_path / "beat.log", RELAIS_REDIS_URL="redis://127.0.0.1:1/0") as process:

        def has_three() -> bool:
            finish_all(ledger)
            return ticks(ledger) >= 3

        block_until(has_three, within_s=20, what="three ticks")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=8) == 0


def test_a_lost_database_connection_costs_a_moment(
    settings: Settings, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    log = tmp_path / "beat.log"
    with beat(settings, log):
        block_until(lambda: ticks(ledger) > 0, within_s=20, what="the first tick")
        ledger.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        before = ticks(ledger)

        def moved() -> bool:
            finish_all(ledger)
            return ticks(ledger) > before + 1

        block_until(moved, within_s=10, what="ticks after the connections were cut")


def test_without_settings_it_says_which(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "beat.log"
    with beat(settings, log, RELAIS_DATABASE_URL="") as process:
        assert process.wait(timeout=20) == 2
    assert "RELAIS_DATABASE_URL is not set." in log.read_text()
    assert "Traceback" not in log.read_text()


def test_it_is_small(settings: Settings, ledger: psycopg.Connection, tmp_path: Path) -> None:
    with beat(settings, tmp_path / "beat.log") as process:
        block_until(lambda: ticks(ledger) > 0, within_s=20, what="the first tick")
        own = [
            line.split() for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        ]
        kilobytes = next(int(line[1]) for line in own if line[0] == "RssAnon:")
    assert kilobytes < 75_000  # what it does not share with its neighbours
