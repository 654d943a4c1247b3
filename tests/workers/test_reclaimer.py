"""Who counts as dead, and what proves nothing."""

from __future__ import annotations

import pytest

from ledger import ids
from ledger.liveness import Quiet
from workers.reclaimer import DeadWorkerDetector

DEAD_AFTER_S = 1.5
OWNER = ids.new()
SILENT = Quiet(silent=frozenset({OWNER}), overdue=frozenset())
OVERDUE = Quiet(silent=frozenset(), overdue=frozenset({OWNER}))
WELL = Quiet(silent=frozenset(), overdue=frozenset())
Answer = tuple[list[object], list[object]]


@pytest.fixture
def coroner() -> DeadWorkerDetector:
    return DeadWorkerDetector(dead_after_s=DEAD_AFTER_S)


def look(coroner: DeadWorkerDetector, quiet: Quiet, *, at: float, took_s: float = 0.01) -> Answer:
    dead, overdue = coroner.look(quiet, asked_at=at, told_at=at + took_s)
    return list(dead), list(overdue)


def test_quiet_long_enough_is_dead(coroner: DeadWorkerDetector) -> None:
    assert look(coroner, SILENT, at=100.0) == ([], [])
    assert look(coroner, SILENT, at=101.0) == ([], [])
    assert look(coroner, SILENT, at=101.6) == ([OWNER], [])


def test_an_owner_with_an_expired_lease_is_overdue_not_dead(coroner: DeadWorkerDetector) -> None:
    assert look(coroner, OVERDUE, at=100.0) == ([], [])
    assert look(coroner, OVERDUE, at=101.6) == ([], [OWNER])


def test_who_was_well_in_between_starts_anew(coroner: DeadWorkerDetector) -> None:
    look(coroner, SILENT, at=100.0)
    look(coroner, WELL, at=101.0)
    assert look(coroner, SILENT, at=101.6) == ([], [])


def test_a_slow_answer_proves_nothing(coroner: DeadWorkerDetector) -> None:
    look(coroner, OVERDUE, at=100.0)
    assert look(coroner, OVERDUE, at=100.5, took_s=12.0) == ([], [])
    assert look(coroner, OVERDUE, at=112.6) == ([], [])
    assert look(coroner, OVERDUE, at=114.1) == ([], [OWNER])


def test_what_was_seen_before_a_gap_proves_nothing(coroner: DeadWorkerDetector) -> None:
    look(coroner, SILENT, at=100.0)
    assert look(coroner, SILENT, at=103.2) == ([], [])
    assert look(coroner, SILENT, at=104.8) == ([OWNER], [])


def test_the_next_look_comes_when_it_could_prove_something(coroner: DeadWorkerDetector) -> None:
    assert coroner.next_look_s(now=100.0) == pytest.approx(0.5)
    look(coroner, OVERDUE, at=100.0, took_s=0.0)
    assert coroner
    assert coroner.next_look_s(now=101.4) == pytest.approx(0.1)
