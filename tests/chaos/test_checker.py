"""The checker finds what is wrong in histories that are, and nothing in those that are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.chaos import checker
from lab.chaos.history import Call, Delivery, Event, History
from tests.chaos.histories import DIED, HAPPY, RELEASED, SENT_TWICE, Step, called_back, events, mail


def snoozed(*, repeats: int, attempt: int) -> tuple[Event, ...]:
    """Snoozed in a row, and then run for the last time with this attempt."""
    before = attempt - 1
    steps: list[Step] = [
        ("ready", 0),
        ("running", 1),
        ("scheduled", before, "x"),
        ("ready", before),
    ]
    made = events(*steps, ("running", attempt), ("succeeded", attempt))
    return tuple(replace(e, repeats=repeats) if e.to_state == "scheduled" else e for e in made)


def test_a_happy_history_holds() -> None:
    verdict = checker.judge(mail())
    assert verdict.holds
    assert (verdict.attempted, verdict.acknowledged, verdict.succeeded) == (1, 1, 1)


def test_a_callback_that_came_holds() -> None:
    assert checker.judge(called_back()).holds


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (mail(deliveries=0), "got nothing"),
        (mail(chain=HAPPY[:2]), "still running"),
        (mail(chain=events(("ready", 0), ("running", 1), ("failed", 1, "no"))), "failed: no"),
        (mail(chain=events(("ready", 0), ("cancelled", 0, "x"))), "was cancelled"),
        (mail(chain=events(("ready", 0), ("running", 1), ("unknown", 1, "?"))), "was unknown"),
        (mail(has_callback=True), "its callback is missing"),
    ],
)
def test_what_was_acknowledged_and_did_not_come_to_its_end_is_lost(
    history: History, words: str
) -> None:
    (sentence,) = checker.judge(history).lost
    assert words in sentence


def test_a_job_that_vanished_is_lost() -> None:
    history = mail()
    history.jobs.clear()
    assert "not in the ledger" in checker.judge(history).lost[0]


def test_a_callback_that_never_arrived_is_lost() -> None:
    history = called_back()
    history.calls.clear()
    assert "never arrived" in checker.judge(history).lost[0]


def test_what_was_not_acknowledged_is_never_lost_but_may_be_recovered() -> None:
    history = mail()
    history.acknowledged.clear()
    verdict = checker.judge(history)
    assert verdict.holds
    assert verdict.recovered == 1
    assert checker.judge(History(attempted=history.attempted)).holds


def test_a_second_delivery_after_a_death_in_the_window_is_in_the_window() -> None:
    verdict = checker.judge(mail(chain=DIED, marks=SENT_TWICE, deliveries=2))
    assert verdict.holds
    assert len(verdict.duplicates_in_smtp_window) == 1


def test_an_unanswered_dot_that_was_noted_excuses_one_more() -> None:
    chain = events(
        ("ready", 0), ("running", 1), ("scheduled", 1, "x"), ("ready", 1), ("running", 2),
        ("succeeded", 2),
    )  # fmt: skip
    noted = (("sending", 1, 0), ("dot_sent", 1, 1), ("dot_sent", 1, 1), *SENT_TWICE[2:])
    verdict = checker.judge(mail(chain=chain, marks=noted, deliveries=2))
    assert verdict.holds
    assert len(verdict.duplicates_in_smtp_window) == 1
    unnoted = mail(chain=chain, marks=SENT_TWICE, deliveries=2)
    assert len(checker.judge(unnoted).duplicates_elsewhere) == 1


@pytest.mark.parametrize(
    "history",
    [
        mail(deliveries=2),
        mail(chain=DIED, marks=SENT_TWICE, deliveries=3),
        mail(chain=DIED, marks=SENT_TWICE, deliveries=2, relay="once"),
        mail(chain=DIED, marks=SENT_TWICE, deliveries=2, relay="header"),
        mail(chain=RELEASED, marks=SENT_TWICE, deliveries=2),
        # The first attempt heard its 250, and a second one sent all the same.
        mail(
            chain=DIED,
            marks=(("dot_sent", 1, 1), ("sent", 1, 1), ("dot_sent", 2, 2), ("sent", 2, 2)),
            deliveries=2,
        ),
    ],
)
def test_any_other_second_delivery_is_elsewhere(history: History) -> None:
    verdict = checker.judge(history)
    assert len(verdict.duplicates_elsewhere) == 1
    assert not verdict.holds


def test_redelivered_callbacks_are_counted_and_allowed() -> None:
    verdict = checker.judge(called_back(calls=2, attempts=2))
    assert verdict.holds
    assert verdict.callback_redeliveries == 1


@pytest.mark.parametrize(
    "history", [called_back(calls=2), called_back(ids=("c", "d"))], ids=["one attempt", "two ids"]
)
def test_callbacks_that_came_twice_without_cause_are_elsewhere(history: History) -> None:
    assert checker.judge(history).duplicates_elsewhere


def test_two_ids_for_one_key_are_a_duplicate() -> None:
    history = mail()
    history.acknowledged_twice.append("k")
    assert checker.judge(history).duplicates_elsewhere


@pytest.mark.parametrize(
    "chain",
    [
        events(("ready", 0), ("succeeded", 0)),
        events(("ready", 0), ("running", 1), ("succeeded", 1), ("running", 2)),
        events(("ready", 0), ("running", 1), ("ready", 1), ("running", 1), ("succeeded", 1)),
        events(("ready", 0), ("running", 2), ("succeeded", 2)),
        events(("running", 1), ("succeeded", 1)),
        (HAPPY[0], HAPPY[2]),
    ],
    ids=["skipped", "back from the end", "same fence", "jumped", "born running", "gap"],
)
def test_illegal_chains(chain: tuple[Event, ...]) -> None:
    assert len(checker.judge(mail(chain=chain)).illegal_histories) == 1


@pytest.mark.parametrize(
    "chain",
    [
        events(("blocked", 0), ("failed", 0), ("blocked", 0), ("ready", 0), ("running", 1), ("succeeded", 1)),
        events(("failed", 0), ("ready", 0), ("running", 1), ("succeeded", 1)),
        snoozed(repeats=3, attempt=4),
        snoozed(repeats=1, attempt=2),
    ],
    ids=["retried behind its parent", "born failed", "snoozed three times", "snoozed once"],
)  # fmt: skip
def test_legal_chains(chain: tuple[Event, ...]) -> None:
    assert checker.judge(mail(chain=chain)).holds


@pytest.mark.parametrize(
    "chain",
    [
        snoozed(repeats=3, attempt=5),
        snoozed(repeats=3, attempt=3),
        (*HAPPY[:2], replace(HAPPY[2], repeats=2, attempt=2)),
    ],
    ids=["one run too many", "one run too few", "what is no snooze"],
)
def test_snoozes_in_a_row_count_every_run(chain: tuple[Event, ...]) -> None:
    assert len(checker.judge(mail(chain=chain)).illegal_histories) == 1


def test_a_row_that_differs_from_its_events_is_illegal() -> None:
    history = mail()
    history.jobs["j"] = replace(history.jobs["j"], attempt=2)
    assert len(checker.judge(history).illegal_histories) == 1


def test_effects_nobody_asked_for() -> None:
    history = mail()
    history.deliveries.append(Delivery("stranger@example.org", 1.0))
    history.calls.append(Call("k", "msg_x", 200, 1.0, is_signed=False))
    history.inward = 1
    history.refused_requests.append("/api/v1/jobs 422")
    assert len(checker.judge(history).unexpected) == 5


def test_cancelled_and_sent() -> None:
    history = mail()
    history.cancelled.add("k")
    assert "cancelled and sent" in checker.judge(history).unexpected[0]


def test_a_job_that_ran_before_its_time() -> None:
    history = mail()
    history.attempted["k"] = replace(history.attempted["k"], delay_s=5.0)
    assert "before its time" in checker.judge(history).unexpected[0]


@pytest.mark.parametrize("state", ["failed", "deferred", "suppressed"])
def test_books_that_deny_a_delivery(state: str) -> None:
    history = mail(marks=(("sending", 1, 0), ("dot_sent", 1, 1), (state, 1, 1)))
    assert not checker.judge(history).holds


def test_books_without_the_message() -> None:
    assert checker.judge(mail(marks=())).unbalanced


def test_schedule_jobs_without_a_tick() -> None:
    history = mail()
    history.stray_ticks = 1
    assert not checker.judge(history).holds
