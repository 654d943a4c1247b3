"""The health of the system, as /health/ready and /metrics show it; read once a second."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway import exception_handlers
from ledger import queries, readiness
from ledger.errors import LedgerError, LedgerUnavailable
from runtime.finding import words_of
from runtime.metrics import Gauge
from tasks.kinds import QUEUES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.connections import Connections
    from gateway.intake import Intake
    from runtime.settings import Settings

FRESH_S = 1.0
DEPTH_FRESH_S = 5.0  # counting a deep backlog is work for Postgres
WORKER_SEEN_WITHIN_S = 15.0
CANARIES_MISSED = 4  # with so many missing in a row, a queue counts as deaf
REDIS_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the ledger and at Redis."""

    at: float
    ledger: str  # "ok", or the sentence that says what is wrong
    redis: str
    writing: str  # "ok", or why no job could be written
    workers: list[dict[str, Any]] = field(default_factory=list)
    queues: list[dict[str, Any]] = field(default_factory=list)


class HealthProbe:
    """Takes readings; concurrent requests share one."""

    def __init__(self, ledger: Connections, settings: Settings, *, intake: Intake) -> None:
        self._ledger = ledger
        self._intake = intake
        self._settings = settings
        url = settings.redis_url.get_secret_value()
        self._redis: Redis | None = (
            Redis.from_url(
                url, socket_connect_timeout=REDIS_TIMEOUT_S, socket_timeout=REDIS_TIMEOUT_S
            )
            if url
            else None
        )
        self._reading: Reading | None = None
        self._taking: asyncio.Task[Reading] | None = None
        self._depth: tuple[float, list[dict[str, Any]]] | None = None

    async def reading(self) -> Reading:
        """A reading not older than a second."""
        if self._reading is not None and time.monotonic() - self._reading.at < FRESH_S:
            return self._reading
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take())
        return await asyncio.shield(self._taking)

    async def open_jobs(self) -> list[dict[str, Any]]:
        """Open jobs by queue and state, a few seconds old at most; empty while Postgres is down."""
        if self._depth is None or time.monotonic() - self._depth[0] > DEPTH_FRESH_S:
            try:
                rows = await self._ledger.call(queries.open_jobs)
            except LedgerError:
                return []
            self._depth = (time.monotonic(), rows)
        return self._depth[1]

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    async def _take(self) -> Reading:
        redis, (ledger, rows), writing = await asyncio.gather(
            self._ask_redis(), self._ask_ledger(), self._ask_writing()
        )
        reading = Reading(at=time.monotonic(), ledger=ledger, redis=redis, writing=writing, **rows)
        self._reading = reading
        return reading

    async def _ask_redis(self) -> str:
        if self._redis is None:
            return "RELAIS_REDIS_URL is not set."
        try:
            ping: Callable[[], Awaitable[bool]] = self._redis.ping
            await ping()
        except (RedisError, OSError, TimeoutError) as error:
            return f"Redis does not respond: {words_of(error)}."
        return "ok"

    async def _ask_ledger(self) -> tuple[str, dict[str, list[dict[str, Any]]]]:
        try:
            return "ok", await self._ledger.call(_look)
        except LedgerUnavailable as error:
            reason = f": {words_of(error.__cause__)}" if error.__cause__ is not None else ""
            return f"Postgres does not respond{reason}.", {}
        except LedgerError as error:
            return f"{error.sentence} {error.remedy}".strip(), {}

    async def _ask_writing(self) -> str:
        try:
            await self._ledger.call(readiness.refuse_if_not_writable)
        except LedgerError as error:
            return f"{error.sentence} {error.remedy}".strip()
        except SQLAlchemyError as error:
            return exception_handlers.from_database(error).sentence
        return "ok"

    def health(self, reading: Reading) -> dict[str, Any]:
        """The parts and the overall status: `ready`, `degraded` (jobs are accepted), `unready`."""
        parts: dict[str, dict[str, Any]] = {
            "ledger": {"status": "ok" if reading.ledger == "ok" else "down"},
            "intake": self._intake.health(),
            "redis": {"status": "ok" if reading.redis == "ok" else "down"},
            "queues": {queue: self._queue(reading, queue) for queue in QUEUES},
        }
        if reading.ledger != "ok":
            parts["ledger"]["detail"] = reading.ledger
            parts["queues"] = {}
        elif reading.writing != "ok":
            parts["intake"] |= {"status": "stands still", "detail": reading.writing}
        if reading.redis != "ok":
            parts["redis"]["detail"] = reading.redis
        if reading.ledger != "ok" or parts["intake"]["status"] != "ok":
            status = "unready"
        elif reading.redis != "ok" or any(q["status"] != "ok" for q in parts["queues"].values()):
            status = "degraded"
        else:
            status = "ready"
        return {
            "status": status,
            "colour": self._settings.colour,
            "version": self._settings.version,
            "parts": parts,
        }

    def is_complete(self, reading: Reading) -> bool:
        """Whether every queue of this colour has a responsive worker."""
        return all(self._queue(reading, queue)["status"] == "ok" for queue in QUEUES)

    def gauges(self, reading: Reading, open_jobs: list[dict[str, Any]]) -> Iterator[Gauge]:
        """The gauges for a scrape by Prometheus."""
        yield Gauge("relais_ledger_up", "1: Postgres responds.", {}, float(reading.ledger == "ok"))
        yield Gauge("relais_redis_up", "1: Redis responds.", {}, float(reading.redis == "ok"))
        if reading.ledger != "ok":
            return
        found = {(row["queue"], str(row["state"])): row for row in open_jobs}
        for queue in QUEUES:
            for state in ("ready", "scheduled", "running"):
                row = found.get((queue, state), {"jobs": 0})
                labels = {"queue": queue, "state": state}
                yield Gauge("relais_queue_jobs", "Open jobs.", labels, float(row["jobs"]))
            oldest_s = found.get((queue, "ready"), {}).get("oldest_s") or 0.0
            help_ = "How long the oldest ready job has waited."
            yield Gauge("relais_queue_oldest_seconds", help_, {"queue": queue}, max(0.0, oldest_s))
            seen = self._queue(reading, queue)
            yield Gauge(
                "relais_queue_workers",
                "Workers seen recently.",
                {"queue": queue},
                float(seen["workers"]),
            )
            paused = "1: an operator paused the queue."
            yield Gauge(
                "relais_queue_paused", paused, {"queue": queue}, float(bool(seen["paused"]))
            )
            if seen["canary_age_s"] is not None:
                help_ = "Time since a canary last came through."
                yield Gauge(
                    "relais_canary_age_seconds", help_, {"queue": queue}, seen["canary_age_s"]
                )

    def _queue(self, reading: Reading, queue: str) -> dict[str, Any]:
        workers = sum(
            row["queue"] == queue
            and row["colour"] == self._settings.colour
            and row["seen_s"] <= WORKER_SEEN_WITHIN_S
            for row in reading.workers
        )
        row = next((row for row in reading.queues if row["name"] == queue), None)
        paused = row is not None and row["paused_at"] is not None
        age_s = row["canary_age_s"] if row is not None else None
        if not workers:
            status = "no worker"
        elif age_s is not None and age_s > CANARIES_MISSED * self._settings.canary_s and not paused:
            status = "canary late"
        else:
            status = "ok"
        return {"status": status, "workers": workers, "canary_age_s": age_s, "paused": paused}


async def _look(connection: AsyncConnection) -> dict[str, list[dict[str, Any]]]:
    return {
        "workers": await queries.workers(connection),
        "queues": await queries.queues(connection),
    }
