"""The three ways on the page are those that the code takes: each is run once and watched."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from gateway import app as application
from ledger import api_keys, ids
from tasks.email import pool
from tasks.outcomes import Succeeded
from tests.docs.pages import ROOT
from tests.email.conftest import MAIL, Jobs
from tests.email.scripted_relay import ScriptedRelay
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# As few as it takes to read what happens, and no more than that.
FILES_MAX = {"Intake": 10, "A job through a worker": 8, "An email": 10}
_STEP = re.compile(r"^\d+\. \[`[\w/.]+`\]\(\.\./([\w/]+\.py)\), `([\w.]+)`: ", re.M)


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def steps(title: str) -> list[tuple[str, str]]:
    """(file, function) of a way, in order, from its numbered list."""
    found: list[tuple[str, str]] = _STEP.findall(section(title))
    assert len(found) == len(re.findall(r"^\d+\. ", section(title), re.M))
    return found


def beside() -> set[str]:
    """What the ways use, and nobody needs to read to follow them."""
    return set(re.findall(r"`([\w/]+\.py)`", section("Supporting files")))


class Watched:
    """Our functions in the order in which they were called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(f"{ROOT}/") or "/tests/" in name:
            return
        call = (name.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname)
        if not call[0].startswith((".venv", "<")):
            self.calls.append(call)


@contextmanager
def watched(*, this_thread: bool) -> Iterator[Watched]:
    """Threads that are started meanwhile; `this_thread`: and this one."""
    seen = Watched()
    threading.setprofile(seen)
    sys.setprofile(seen if this_thread else None)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def hold(title: str, calls: list[tuple[str, str]]) -> None:
    """The page names what was called, in that order, and every file that matters."""
    way = steps(title)
    assert len(way) <= FILES_MAX[title]
    after = iter(calls)
    assert [step for step in way if step in after] == way  # each behind the one before it
    files = {file for file, _ in way}
    assert {file for file, _ in calls} - files - beside() == set()


async def test_intake(settings: Settings, database: AsyncEngine) -> None:
    async with database.begin() as connection:
        made = await api_keys.create(
            connection, name="x", role="producer", tenant="default", rate_per_s=None
        )
    middleware = application.create(settings)
    transport = httpx.ASGITransport(app=middleware)
    async with (
        middleware.app.router.lifespan_context(middleware.app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        client.headers["Authorization"] = f"Bearer {made.key}"

        async def post() -> None:
            answer = await client.post("/api/v1/jobs", json={"kind": "email.send", "payload": MAIL})
            assert answer.status_code == 202, answer.text

        await post()  # makes what is made once
        with watched(this_thread=True) as seen:
            await post()
    hold("Intake", seen.calls)


async def test_a_job_through_a_worker(
    settings: Settings, database: AsyncEngine, tmp_path: Path
) -> None:
    ledger = Ledger(database, tmp_path)
    with watched(this_thread=False) as seen, RunningEngine(settings):
        (first,) = await ledger.accept()
        await ledger.reaches(first, "succeeded")
        del seen.calls[:]  # of what is made once
        (second,) = await ledger.accept()
        await ledger.reaches(second, "succeeded")
        calls = list(seen.calls)  # not how it ends
    hold("A job through a worker", calls)


async def test_an_email(settings: Settings, database: AsyncEngine) -> None:
    async with ScriptedRelay() as relay:
        jobs = Jobs(database, settings, relay.url(connections=1))
        try:
            first, second = ids.new(), ids.new()
            assert isinstance(await jobs.run(first), Succeeded)  # makes what is made once
            with watched(this_thread=True) as seen:
                assert isinstance(await jobs.run(second), Succeeded)
        finally:
            await pool.close_all()
    hold("An email", seen.calls)
