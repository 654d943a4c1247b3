"""Every job has a queue, and no wish lets it into a queue that is not for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import kinds
from tasks.kinds import QUEUES, Kind
from workers.routing import LARGE_PAYLOAD_BYTES, WISHES, route

KINDS = kinds.load()


def routed(
    kind: str,
    *,
    wish: str | None = None,
    size: int = 100,
    workflow_id: str | None = None,
    deadline: datetime | None = None,
) -> str:
    return route(
        kind=KINDS[kind],
        wish=wish,
        payload_bytes=size,
        workflow_id=workflow_id,
        deadline=deadline,
    )


def test_rules_in_their_order() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    later = datetime.now(UTC) + timedelta(hours=3)
    assert routed("email.send") == "template"
    assert routed("email.send", wish="bulk", deadline=soon) == "bulk"
    assert routed("email.send", deadline=soon, size=LARGE_PAYLOAD_BYTES + 1) == "critical"
    assert routed("email.send", deadline=later) == "template"
    assert routed("email.send", workflow_id="campaign-7") == "bulk"
    assert routed("email.send", size=LARGE_PAYLOAD_BYTES + 1) == "bulk"
    assert routed("http.callback", wish="critical") == "callback"


@pytest.mark.parametrize("wish", ["vector", "callback"])
def test_mail_does_not_get_where_it_could_starve_others(wish: str) -> None:
    assert routed("email.send", wish=wish) == "template"


@given(
    kind=st.sampled_from(sorted(KINDS.values(), key=lambda kind: kind.name)),
    wish=st.none() | st.sampled_from(QUEUES),
    size=st.integers(0, 10**9),
    workflow_id=st.none() | st.text(max_size=20),
    deadline=st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_always_a_queue_that_fits(
    kind: Kind, wish: str | None, size: int, workflow_id: str | None, deadline: datetime | None
) -> None:
    queue = route(
        kind=kind, wish=wish, payload_bytes=size, workflow_id=workflow_id, deadline=deadline
    )
    assert queue in {*WISHES, kind.queue}
