"""The plan of a claim: shares, floors, urgency and ageing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.lanes import Head
from ledger.shapes import Wish
from tests.workers.claimed import NOON, claimed_job
from workers.claims import AGEING_S, LATE, Claims, Share, level


def head(
    lane: str, *, kind: str = "k", priority: int = 5, ago_s: float = 0.0, **fields: Any
) -> Head:
    values = {"running_max": None, "weight": 1.0} | fields
    ready_at = NOON - timedelta(seconds=ago_s)
    return Head(lane, kind, priority, ready_at, now=NOON, waited_s=ago_s, **values)


def plan(claims: Claims, *, room: int, held: dict[str, int] | None = None) -> dict[str, Wish]:
    wishes = claims.plan(room=room, held=held or {}, allowed=lambda _: None)
    return {wish.lane: wish for wish in wishes}


def test_one_lane_gets_all_the_room() -> None:
    claims = Claims()
    claims.looked([head("a")])
    assert plan(claims, room=256)["a"].quota == 256


def test_a_lane_that_comes_late_is_evened_out_first() -> None:
    claims = Claims()
    claims.looked([head("a"), head("b")])
    quotas = {lane: wish.quota for lane, wish in plan(claims, room=100, held={"a": 60}).items()}
    assert quotas == {"a": 20, "b": 80}


def test_many_lanes_of_one_tenant_share_what_one_tenant_gets() -> None:
    claims = Claims()
    claims.looked([head("b"), *(head(f"a/host:{n}") for n in range(9))])
    quotas = {lane: wish.quota for lane, wish in plan(claims, room=90).items()}
    assert quotas["b"] == 45
    assert sum(quotas.values()) == 90


def test_weights_and_bounds() -> None:
    claims = Claims()
    claims.workers = 2
    claims.looked([head("t/x", weight=3.0), head("t/y"), head("t/z", running_max=10)])
    quotas = {lane: wish.quota for lane, wish in plan(claims, room=85, held={"t/z": 2}).items()}
    assert quotas["t/z"] == 3  # half of ten, less what it holds
    assert 55 <= quotas["t/x"] <= 63
    assert sum(quotas.values()) == 85


def test_a_lane_that_may_not_run_is_not_claimed() -> None:
    claims = Claims()
    claims.looked([head("stuck"), head("good")])
    wishes = claims.plan(room=10, held={}, allowed=lambda lane: 0 if lane == "stuck" else None)
    assert [(wish.lane, wish.quota) for wish in wishes] == [("good", 10)]


def test_the_urgent_go_first_and_nobody_starves() -> None:
    claims = Claims()
    claims.looked([head("a", priority=0, ago_s=8 * AGEING_S), head("a", priority=9)])
    assert plan(claims, room=1)["a"].priority == 9
    claims.looked([head("a", priority=0, ago_s=9.1 * AGEING_S), head("a", priority=9)])
    assert plan(claims, room=1)["a"].priority == 0


def test_a_claim_starts_where_the_last_one_ended() -> None:
    claims = Claims()
    claims.looked([head("a", ago_s=60)])
    (wish,) = plan(claims, room=2).values()
    assert wish.floor == NOON - timedelta(seconds=60) - LATE
    last = NOON - timedelta(seconds=30)
    claims.claimed([wish], [claimed_job(lane="a", kind="k", ready_at=last)])
    claims.looked([head("a", ago_s=29)])
    (wish,) = plan(claims, room=2).values()
    assert wish.floor == last - LATE


def test_a_full_look_moves_a_floor_back_and_never_takes_much_of_the_time() -> None:
    claims = Claims()
    assert claims.wants_full_look(now=0.0)
    claims.looked([head("a")])
    claims.looked_at_all([head("a", ago_s=600)], took_s=0.5, now=10.0)
    assert not claims.wants_full_look(now=34.0)
    assert claims.wants_full_look(now=36.0)
    (wish,) = plan(claims, room=1).values()
    assert wish.floor == NOON - timedelta(seconds=600)


shares = st.lists(
    st.builds(
        Share,
        st.uuids().map(str),
        held=st.integers(0, 2_000),
        most=st.integers(0, 2_000),
        weight=st.floats(0.01, 1_000.0),
    ),
    max_size=20,
    unique_by=lambda share: share.name,
)


@given(room=st.integers(0, 2_000), among=shares)
def test_shares_give_out_the_room_and_no_more(room: int, among: list[Share]) -> None:
    most = {share.name: share.most for share in among}
    given_out = level(room, among)
    assert sum(given_out.values()) == min(room, sum(most.values()))
    assert all(0 <= count <= most[name] for name, count in given_out.items())


@given(room=st.integers(1, 500), held=st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_shares_even_out_what_is_held(room: int, held: list[int]) -> None:
    among = [Share(str(n), held=count, most=10_000) for n, count in enumerate(held)]
    level(room, among)
    got = [share for share in among if share.given]
    assert max(share.level for share in got) - min(share.level for share in got) <= 1
    assert all(share.level >= max(s.level for s in got) - 1 for share in among)


@pytest.mark.parametrize("lanes", [5_000])
def test_thousands_of_lanes_are_planned_in_milliseconds(lanes: int) -> None:
    claims = Claims()
    claims.looked([head(f"t{n}") for n in range(lanes)])
    assert sum(wish.quota for wish in plan(claims, room=256).values()) == 256
