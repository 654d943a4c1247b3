from __future__ import annotations

from dataclasses import replace

import pytest

from ops.demo import requests
from ops.demo.balance import Balance

STORY = requests.tell("demo-x", recipients=3, callback_url="http://127.0.0.1:9/callbacks/x")
BALANCED = Balance(
    accepted=STORY.jobs,
    by_queue={
        "critical": {"succeeded": 2},
        "template": {"succeeded": 7, "failed": 1},
        "bulk": {"succeeded": 3},
    },
    messages_sent=12,
    inbox=12,
    duplicates=0,
    refused=1,
    deferred=1,
    callbacks=1,
)


def test_balanced_books_have_no_fault() -> None:
    assert BALANCED.faults(STORY) == []
    assert (BALANCED.open, BALANCED.finished) == (0, 13)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"accepted": 14}, "14 accepted, but the ledger has 13."),
        (
            {"by_queue": BALANCED.by_queue | {"bulk": {"succeeded": 2, "running": 1}}},
            "1 jobs are still open.",
        ),
        (
            {"by_queue": BALANCED.by_queue | {"bulk": {"succeeded": 2, "failed": 1}}},
            "2 failed; 1 was expected.",
        ),
        ({"inbox": 13}, "12 messages sent, but 13 in the inbox."),
        ({"messages_sent": 11}, "11 messages sent, but 12 in the inbox."),
        ({"duplicates": 1}, "1 mails arrived more than once."),
        ({"callbacks": 0}, "0 signed callbacks arrived instead of 1."),
    ],
)
def test_each_difference_is_a_fault(change: dict[str, object], fault: str) -> None:
    assert replace(BALANCED, **change).faults(STORY) == [fault]  # type: ignore[arg-type]


def test_the_story_has_every_shape_and_its_own_addresses() -> None:
    payloads = [job["payload"] for job in STORY.singles]
    assert sum("variables" in payload for payload in payloads) == requests.TEMPLATED
    assert sum("delay_s" in job for job in STORY.singles) == 1
    assert sum("callback_url" in job for job in STORY.singles) == 1
    jobs = STORY.singles + STORY.bulk
    recipients = [recipient for job in jobs for recipient in job["payload"]["to"]]
    assert len(set(recipients)) == len(jobs) == STORY.jobs
    assert {recipient.partition("@")[2] for recipient in recipients} == {STORY.domain}
    assert len({job["idempotency_key"] for job in jobs}) == len(jobs)
