"""Every job has a queue, and no wish lets it into a queue that is not for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import kinds
from tasks.kinds import QUEUES, Kind
from tasks.routing import LARGE_PAYLOAD_BYTES, WISHES, route

KINDS = kinds.load()


def routed(
    kind: str,
    *,
    wish: str | None = None,
    size: int = 100,
    workflow_id: str | None = None,
    left_s: float | None = None,
) -> str:
    return route(
        kind=KINDS[kind],
        wish=wish,
        payload_bytes=size,
        workflow_id=workflow_id,
        left_s=left_s,
    )


def test_rules_in_their_order() -> None:
    soon, later = 30.0, 3 * 3_600.0
    assert routed("email.send") == "template"
    assert routed("email.send", wish="bulk", left_s=soon) == "bulk"
    assert routed("email.send", left_s=soon, size=LARGE_PAYLOAD_BYTES + 1) == "critical"
    assert routed("email.send", left_s=later) == "template"
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
    left_s=st.none() | st.floats(allow_nan=False),
)
def test_always_a_queue_that_fits(
    kind: Kind, wish: str | None, size: int, workflow_id: str | None, left_s: float | None
) -> None:
    queue = route(kind=kind, wish=wish, payload_bytes=size, workflow_id=workflow_id, left_s=left_s)
    assert queue in {*WISHES, kind.queue}
