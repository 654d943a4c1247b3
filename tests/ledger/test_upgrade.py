"""A ledger of the release before is upgraded while that release works on it."""

from __future__ import annotations

import pytest

from lab.bench import upgrade
from tests import services

JOBS = 20_000


@pytest.mark.timeout(300)
async def test_nothing_is_lost_while_the_release_before_works_on() -> None:
    with services.fresh_database(template="template0") as url:
        done = await upgrade.run(url, jobs=JOBS)
    assert done.faults == []
    assert (done.lost, done.left_open) == (0, 0)
    # The old release was at it before, during and after, not only before.
    assert done.accepted_during > 0
    assert done.finished_during > 0
    assert done.accepted > done.accepted_during
