"""What a job shares trouble with: the lane that its kind names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ledger.models.jobs import State
from tasks import kinds
from tasks.callbacks import Callback
from tasks.email.payload import Email
from tests.email.conftest import MAIL
from tests.ledger import jobs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

kinds.load()


@pytest.mark.parametrize(
    ("kind", "payload", "lane"),
    [
        ("email.send", {}, "acme/relay:default"),
        ("email.send", {"relay": "marketing"}, "acme/relay:marketing"),
        ("http.callback", {"url": "https://N8N.example.com/x?a=b"}, "acme/host:n8n.example.com"),
        ("http.callback", {"url": "http://10.0.0.1:5678/x"}, "acme/host:10.0.0.1:5678"),
        ("http.callback", {"url": "http://u:p@h.example/"}, "acme/host:h.example"),
        ("http.callback", {"url": "http://[::1]:80/"}, "acme/host:[::1]:80"),
        ("workflow.trigger", {"url": "https://h.example/webhook/1"}, "acme/host:h.example"),
        ("http.callback", {"url": "http://[oops/"}, "acme"),
        ("http.callback", {"url": ""}, "acme"),
        ("template.render", {}, "acme"),
        ("nobody.knows_it", {"relay": "x"}, "acme"),
    ],
)
def test_lanes(kind: str, payload: dict[str, Any], lane: str) -> None:
    assert kinds.lane_of(kind, "acme", payload) == lane


@given(st.text(max_size=5_000))
def test_no_payload_that_fits_breaks_its_lane(url: str) -> None:
    try:
        Callback(url=url, body={})
    except ValidationError:
        return
    lane = kinds.lane_of("http.callback", "acme", {"url": url, "body": {}})
    assert lane == "acme" or lane.startswith("acme/host:")
    assert len(lane) <= 200
    assert lane.isprintable()
    lane.encode()


@given(
    st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), st.text("a", min_size=1, max_size=300)
)
def test_lanes_are_bounded_and_apart(relay: str, tenant: str) -> None:
    Email.model_validate({**MAIL, "relay": relay})
    lane = kinds.lane_of("email.send", tenant, {"relay": relay})
    assert len(lane) <= 200
    assert lane != kinds.lane_of("email.send", tenant, {"relay": f"{relay}x"})


@pytest.mark.parametrize("answer", [KeyError("url"), 17, "", None])
def test_a_kind_of_a_users_that_cannot_say_leaves_its_job_in_the_tenants_lane(
    answer: object,
) -> None:
    def lane(_: dict[str, Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    name = f"test.lane_{uuid4().hex}"

    @kinds.kind(name, payload=BaseModel, lane=lane)
    async def handler(_payload: BaseModel, _context: object) -> Any: ...

    try:
        assert kinds.lane_of(name, "acme", {}) == "acme"
    finally:
        del kinds._REGISTRY[name]


@pytest.mark.parametrize(
    "url", ["https://N8N.example.com/x", "http://10.0.0.1:5678/", "http://h:80"]
)
async def test_the_ledgers_own_callbacks_are_in_the_lane_that_their_kind_names(
    database: AsyncEngine, url: str
) -> None:
    await jobs.accept(database, jobs.new_job(callback_url=url))
    [claimed] = await jobs.claim(database)
    await jobs.finish(database, claimed, State.SUCCEEDED)
    [callback] = await jobs.claim(database, queue="callback")
    assert callback.lane == kinds.lane_of("http.callback", "default", callback.payload)
