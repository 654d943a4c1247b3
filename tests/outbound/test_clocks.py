"""A real worker whose clock is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tasks.outbound import signature
from tests.ledger import jobs
from tests.outbound.conftest import SECRET
from tests.outbound.peers import answer, peer
from tests.waiting import wait_for
from tests.workers.process import WorkerProcess

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings


@pytest.mark.parametrize("alone", [False, True], ids=["in the worker", "in a process of its own"])
async def test_callbacks_of_a_worker_two_hours_fast_pass_the_documented_check(
    settings: Settings, database: AsyncEngine, alone: bool
) -> None:
    async with peer(answer(200)) as receiver:
        body = {"type": "job.succeeded"}
        new = [
            jobs.new_job(
                kind="http.callback",
                queue="callback",
                payload={"url": receiver.url(), "body": body},
            )
            for _ in range(5)
        ]
        await jobs.accept(database, *new)
        if alone:
            async with database.begin() as connection:
                await connection.execute(text("UPDATE relais.jobs SET alone = true"))
        with WorkerProcess(
            settings,
            "callback",
            kinds="tests.outbound.wrong_clock",
            callback_secret=SECRET,
            outbound_allow="127.0.0.1",
        ):
            await wait_for(lambda: len(receiver.requests) == len(new), within_s=30)
    (secret,) = signature.endpoint_secrets(SECRET, tenant="default", url=receiver.url())
    for request in receiver.requests:
        signature.verify(secret=secret, headers=request.headers, body=request.body)
