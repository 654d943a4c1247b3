"""Rules about jobs beside each other, in histories that break them and in some that do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lab.chaos import checker, rules
from lab.chaos.history import Event, History, Probe, Run, Struck
from tests.chaos.histories import HAPPY, add_task, events, mail

POISON = "poison: it ended the process that ran it, three times"


def failed(reason: str | None) -> tuple[Event, ...]:
    steps = (("ready", 0), ("running", 1))
    return events(*steps, ("failed", 1, reason) if reason is not None else ("failed", 1))


def judged(name: str = "a", *, chain: tuple[Event, ...] = HAPPY, **asked: Any) -> checker.Verdict:
    history = History()
    add_task(history, name, chain=chain, **asked)
    return checker.judge(history)


def test_an_innocent_that_failed_is_named_and_lost() -> None:
    verdict = judged(chain=failed("ValueError"))
    assert (len(verdict.innocent_failed), len(verdict.lost)) == (1, 1)
    assert not verdict.holds


def test_whoever_shall_fail_fails_with_a_reason() -> None:
    assert judged(chain=failed("as it was told"), ends="failed").holds
    assert judged(chain=failed(None), ends="failed").innocent_failed
    assert "should have failed, is succeeded" in judged(ends="failed").lost[0]
    assert "should have failed, is running" in judged(chain=HAPPY[:2], ends="failed").lost[0]


def test_only_poison_ends_as_poison() -> None:
    assert judged(chain=failed(POISON), ends="failed").innocent_failed
    history = History()
    add_task(history, "a", chain=failed(POISON))
    history.poison.add("a")
    assert checker.judge(history).holds
    add_task(history, "a", chain=failed("ValueError"))
    assert not checker.judge(history).holds


def test_a_job_of_ours_that_failed_is_innocent_too() -> None:
    history = mail()
    history.failed_elsewhere.append("j (relais.canary): no")
    assert checker.judge(history).innocent_failed == ["j (relais.canary): no"]


@pytest.mark.parametrize(
    ("parent", "reason", "holds"),
    [
        (failed("as it was told"), "parent job p failed", True),
        (failed("as it was told"), "parent job q failed", False),
        (HAPPY, "parent job p failed", False),
        (failed("as it was told"), "ValueError", False),
    ],
    ids=["its parent", "not its parent", "a parent that did not fail", "for another reason"],
)
def test_a_child_fails_with_its_own_parent_only(
    parent: tuple[Event, ...], reason: str, *, holds: bool
) -> None:
    history = History()
    add_task(history, "p", chain=parent, ends=parent[-1].to_state)
    chain = events(("blocked", 0), ("failed", 0, reason))
    add_task(history, "c", chain=chain, parents=("p",), ends="failed")
    assert checker.judge(history).holds is holds


def test_whoever_has_a_cancelled_parent_is_cancelled() -> None:
    history = History()
    add_task(history, "p", chain=events(("ready", 0), ("cancelled", 0, "by chaos")))
    history.cancel_asked.add("p")
    chain = events(("blocked", 0), ("cancelled", 0, "parent job p cancelled"))
    add_task(history, "c", chain=chain, parents=("p",), ends="cancelled")
    assert checker.judge(history).holds
    add_task(history, "c", parents=("p",), ends="cancelled")
    assert not checker.judge(history).holds


RETRIED = events(
    ("ready", 0), ("running", 1), ("scheduled", 1, "later"), ("ready", 1), ("running", 2),
    ("succeeded", 2),
)  # fmt: skip


@pytest.mark.parametrize(("taken_at", "found"), [(1.5, 1), (4.5, 0)])
def test_nothing_runs_again_after_its_cancel_was_taken(taken_at: float, found: int) -> None:
    history = History()
    add_task(history, "a", chain=RETRIED)
    history.cancel_taken["a"] = taken_at
    history.cancel_asked.add("a")
    history.runs = [Run("a", "began", 1, 1.1), Run("a", "began", 2, 4.1)]
    verdict = checker.judge(history)
    assert len(verdict.unexpected) == found
    assert all("first 2.50 s after; 1 runs began then" in words for words in verdict.unexpected)


@pytest.mark.parametrize(("child_runs_at", "found"), [(1.0, 1), (3.0, 0)])
def test_no_child_runs_before_its_parent_has_succeeded(child_runs_at: float, found: int) -> None:
    history = History()
    add_task(history, "p")  # succeeds at 2.0
    chain = (
        Event(0, None, "blocked", 0, None, None, 0.0),
        Event(1, "blocked", "ready", 0, None, None, child_runs_at),
        Event(2, "ready", "running", 1, "w@h:1", None, child_runs_at),
        Event(3, "running", "succeeded", 1, "w@h:1", None, child_runs_at + 1),
    )
    add_task(history, "c", chain=chain, parents=("p",))
    verdict = checker.judge(history)
    assert len(verdict.unexpected) == found
    assert all("ran while its parent p was running" in words for words in verdict.unexpected)


@pytest.mark.parametrize(("seconds", "words"), [(2.0, None), (9.0, "9.0 s"), (math.inf, "no end")])
def test_a_wait_beyond_its_bound_is_late(seconds: float, words: str | None) -> None:
    history = mail()
    history.probes.append(Probe("relay_silent", "a mail", seconds, 8.0))
    verdict = checker.judge(history)
    assert verdict.holds is (words is None)
    assert words is None or words in verdict.late[0]


def flooded(*, waits_s: float, **asked: Any) -> History:
    history = History()
    chain = (
        Event(0, None, "ready", 0, None, None, 10.0),
        Event(1, "ready", "running", 1, "w@h:1", None, 10.0 + waits_s),
        Event(2, "running", "succeeded", 1, "w@h:1", None, 11.0 + waits_s),
    )
    add_task(history, "a", chain=chain, queue="template", **asked)
    history.faults = [Struck("tenant_floods", "neighbour", 9.0, 12.0)]
    return history


def test_the_wait_beside_a_flood_is_measured_and_bounded() -> None:
    assert rules.neighbour_waits(flooded(waits_s=1.0)).seconds == (1.0,)
    assert checker.judge(flooded(waits_s=1.0)).holds
    assert "tenant_floods" in checker.judge(flooded(waits_s=7.0)).late[0]
    assert rules.neighbour_waits(flooded(waits_s=7.0, tenant="flood")).seconds == ()
    assert rules.neighbour_waits(flooded(waits_s=7.0, parents=("p",))).seconds == ()
    assert rules.neighbour_waits(flooded(waits_s=7.0, delay_s=1.0)).seconds == ()


def test_what_a_fault_saw_that_may_never_be_is_unexpected() -> None:
    history = mail()
    history.findings.append("worker-template-0 claimed 3 jobs, and was never seen alive")
    assert checker.judge(history).unexpected == history.findings
