"""Housekeeping that a failover cuts short: no failed job that somebody would have to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks import housekeeping
from tasks.outcomes import Outcome, Snooze, Succeeded
from tests import internal_kinds
from tests.internal_kinds import READ_ONLY, UNREACHABLE

if TYPE_CHECKING:
    from runtime.settings import Settings


async def look_at_queues(settings: Settings, *, options: str = "") -> Outcome:
    return await internal_kinds.run(
        housekeeping.look_at_queues,
        housekeeping.Nothing(),
        settings,
        kind="relais.queue_health",
        options=options,
    )


@pytest.mark.parametrize("options", [READ_ONLY, UNREACHABLE], ids=["read-only", "unreachable"])
async def test_a_round_comes_again_after_a_server_that_takes_no_writes(
    settings: Settings, options: str
) -> None:
    outcome = await look_at_queues(settings, options=options)
    assert isinstance(outcome, Snooze)
    assert "the ledger was away" in outcome.reason
    assert isinstance(await look_at_queues(settings), Succeeded)
