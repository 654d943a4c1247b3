"""Hands a story over to the gateway and watches until every job is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ops.demo.balance import FINISHED

if TYPE_CHECKING:
    from ops.demo.client import Client
    from ops.demo.receiver import Callback
    from ops.demo.requests import Story

BATCH_JOBS = 500
LOOK_S = 0.25
# What a run may take: the slowest single job (a deferral and its backoff), and the bulk at a
# hundredth of the speed that it should have.
PATIENCE_S = 120.0
PATIENCE_PER_JOB_S = 0.02

Watcher = Callable[[int, int], None]


def hand_over(client: Client, story: Story, *, watch: Watcher) -> int:
    """Post every job; how many were accepted. `watch` is told (accepted, finished)."""
    accepted = 0
    for job in story.singles:
        client.accept(job)
        accepted += 1
        watch(accepted, 0)
    for first in range(0, len(story.bulk), BATCH_JOBS):
        accepted += client.accept_batch(story.bulk[first : first + BATCH_JOBS])
        watch(accepted, finished(client, story))
    return accepted


def wait(
    client: Client,
    story: Story,
    callbacks: Sequence[Callback],
    *,
    accepted: int,
    watch: Watcher,
) -> bool:
    """Wait until all is over and the callback is among `callbacks`; False: patience ran out."""
    deadline = time.monotonic() + PATIENCE_S + accepted * PATIENCE_PER_JOB_S
    while True:
        over = finished(client, story)
        watch(accepted, over)
        if over >= accepted and callbacks:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)


def finished(client: Client, story: Story) -> int:
    """How many jobs of the story are over."""
    counts = client.job_counts(story.tag).values()
    return sum(states.get(state, 0) for states in counts for state in FINISHED)
