"""Whatever is sealed can be written: as JSON, and as Postgres' jsonb."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from ledger.models.jobs import State
from tasks.kinds import Backoff
from tasks.outcomes import Cancelled, ErrorReport, Failed, RetryLater, Snooze, Succeeded, Unknown
from tests import services
from tests.workers.claimed import claimed_job
from workers import completer
from workers.sealing import DELAY_MAX_S, DEPTH_MAX, REASON_MAX_BYTES, sealed

LIMIT = 4_096
TEXTS = st.text(
    st.characters(exclude_categories=()), max_size=40
)  # lone surrogates and NUL included
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers().map(lambda n: n * 10**50))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=8), st.builds(object)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.dictionaries(st.one_of(TEXTS, st.integers()), inner, max_size=4),
    ),
    max_leaves=12,
)
ANYTHING = st.one_of(TEXTS, VALUES, st.text(min_size=LIMIT, max_size=LIMIT + 1))
ERRORS = st.one_of(st.none(), ANYTHING, st.builds(ErrorReport, ANYTHING, ANYTHING, ANYTHING))
OUTCOMES = st.one_of(
    st.builds(Succeeded, st.one_of(VALUES, st.dictionaries(TEXTS, VALUES, max_size=3))),
    st.builds(RetryLater, ANYTHING, ANYTHING, ERRORS),
    st.builds(Snooze, ANYTHING, ANYTHING),
    st.builds(Failed, ANYTHING, ERRORS, ANYTHING),
    st.builds(Cancelled, ANYTHING),
    st.builds(Unknown, ANYTHING, ANYTHING),
    ANYTHING,
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[psycopg.Connection]:
    with psycopg.connect(services.postgres_url(), autocommit=True) as connection:
        yield connection


@given(returned=OUTCOMES)
def test_anything_can_be_written(postgres: psycopg.Connection, returned: object) -> None:
    made = sealed(returned, max_bytes=LIMIT)
    item = completer.finish_of(claimed_job(), made.outcome, backoff=Backoff())
    row = to_json(
        {
            "reason": item.reason,
            "error": item.error,
            "result": item.result,
            "delay_s": item.delay_s,
        }
    ).decode()
    stored = postgres.execute(
        "SELECT reason, error::text, result::text, now() + delay_s * interval '1 s'"
        " FROM jsonb_to_record(%s::jsonb)"
        " AS r (reason text, error jsonb, result jsonb, delay_s float8)",
        (row,),
    ).fetchone()
    assert stored is not None
    assert stored[0] == item.reason
    for text, value in zip(stored[1:3], (item.error, item.result), strict=True):
        assert value is None or _same(from_json(text), value)
    assert item.state in State
    assert len((item.reason or "").encode()) <= LIMIT + 100  # "out of attempts" comes before it
    assert len(to_json(item.result)) <= LIMIT + 10
    assert sealed(made.outcome, max_bytes=LIMIT).outcome == made.outcome


def _same(stored: Any, value: Any) -> bool:
    """Equal, but for the spelling of numbers: jsonb has no -0 and no 1e5."""
    if isinstance(value, dict):
        return stored.keys() == value.keys() and all(_same(stored[k], value[k]) for k in value)
    if isinstance(value, list):
        return len(stored) == len(value) and all(map(_same, stored, value))
    if isinstance(value, float):
        return math.isclose(stored, value)
    return bool(stored == value)


def test_a_result_is_a_copy() -> None:
    result: dict[str, Any] = {"list": [1]}
    outcome = sealed(Succeeded(result), max_bytes=LIMIT).outcome
    result["list"].append(object())  # a handler that keeps it and goes on writing to it
    assert outcome == Succeeded({"list": [1]})


@pytest.mark.parametrize(("levels", "fits"), [(DEPTH_MAX, True), (DEPTH_MAX + 1, False)])
def test_depth_is_bounded(levels: int, fits: bool) -> None:
    result: Any = {"x": 1}
    for _ in range(levels - 2):
        result = [result]
    outcome = sealed(Succeeded({"x": result}), max_bytes=LIMIT).outcome
    assert isinstance(outcome, Succeeded) == fits


def test_many_small_brackets_are_not_deep() -> None:
    result: dict[str, Any] = {"x": [[] for _ in range(10 * DEPTH_MAX)]}
    assert sealed(Succeeded(result), max_bytes=LIMIT).outcome == Succeeded(result)


def test_what_is_cut_says_so_and_stays_whole_characters() -> None:
    outcome = sealed(Failed("é" * 20_000), max_bytes=1_000_000).outcome
    assert isinstance(outcome, Failed)
    assert outcome.reason.endswith("é [cut: it had 40,000 bytes]")
    assert REASON_MAX_BYTES - 4 < len(outcome.reason.encode()) <= REASON_MAX_BYTES


@pytest.mark.parametrize(
    ("delay_s", "waits_s"), [(-1, 0.0), (1e300, DELAY_MAX_S), (math.inf, DELAY_MAX_S), (True, 1.0)]
)
def test_delays_are_bounded(delay_s: float, waits_s: float) -> None:
    assert sealed(RetryLater("r", delay_s), max_bytes=LIMIT).outcome == RetryLater("r", waits_s)


def test_a_kinds_own_backoff_is_bounded_as_well() -> None:
    wild = Backoff(base_s=1e308, cap_s=math.inf)
    item = completer.finish_of(claimed_job(), RetryLater("r"), backoff=wild)
    assert 0 <= item.delay_s <= DELAY_MAX_S


def test_surrogate_pairs_become_the_character_that_they_stand_for() -> None:
    outcome = sealed(Failed("\ud83d\ude00"), max_bytes=LIMIT).outcome
    assert outcome == Failed("\N{GRINNING FACE}")
