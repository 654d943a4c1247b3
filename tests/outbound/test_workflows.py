from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from tasks.outcomes import Failed, RetryLater, Succeeded, Unknown
from tasks.workflows import Trigger, trigger
from tests.outbound.conftest import JOB_ID
from tests.outbound.peers import Script, answer, drop, peer

if TYPE_CHECKING:
    from tests.outbound.conftest import MakeContext

JSON = "application/json; charset=utf-8"


async def test_a_trigger_sends_what_n8n_needs_and_keeps_the_answer(
    make_context: MakeContext,
) -> None:
    reply = json.dumps({"executionId": "17", "text": "fertig \u0000ü"}).encode()
    async with peer(answer(200, reply, Content_Type=JSON)) as n8n:
        payload = Trigger(
            url=n8n.url("/webhook/report"), body={"tag": "Größe"}, headers={"X-Api-Key": "k"}
        )
        outcome = await trigger(payload, make_context())
    assert outcome == Succeeded(
        {"status": 200, "body": {"executionId": "17", "text": "fertig ü"}, "cut": False}
    )
    (request,) = n8n.requests
    assert request.line == "POST /webhook/report HTTP/1.1"
    assert json.loads(request.body) == {"tag": "Größe"}
    assert request.headers["idempotency-key"] == str(JOB_ID)
    assert request.headers["webhook-id"] == f"msg_{JOB_ID}"
    assert request.headers["traceparent"].startswith("00-")
    assert request.headers["x-api-key"] == "k"
    assert request.headers["content-type"] == "application/json"


async def test_a_get_has_no_body(make_context: MakeContext) -> None:
    async with peer(answer(200, b"pong", Content_Type="text/plain")) as n8n:
        outcome = await trigger(Trigger(url=n8n.url("/x?a=1"), method="GET"), make_context())
    assert outcome == Succeeded({"status": 200, "body": "pong", "cut": False})
    assert n8n.requests[0].line == "GET /x?a=1 HTTP/1.1"
    assert "content-length" not in n8n.requests[0].headers


@pytest.mark.parametrize(
    ("script", "fields", "expected"),
    [
        (answer(201), {}, Succeeded),
        (answer(404), {}, RetryLater),
        (answer(404), {"expect_status": [404]}, Succeeded),
        (answer(200), {"expect_status": [201]}, Failed),
        (answer(302, Location="http://127.0.0.1/"), {}, Failed),
        (answer(401), {}, Failed),
        (answer(422), {}, Failed),
        (answer(429), {}, RetryLater),
        (answer(500), {}, RetryLater),
        (answer(500), {"policy": "at_most_once"}, Unknown),
        (answer(404), {"policy": "at_most_once"}, RetryLater),
        (drop, {}, RetryLater),
        (drop, {"policy": "at_most_once"}, Unknown),
    ],
)
async def test_what_an_answer_means(
    script: Script, fields: dict[str, Any], expected: type, make_context: MakeContext
) -> None:
    async with peer(script) as n8n:
        outcome = await trigger(Trigger(url=n8n.url(), **fields), make_context())
    assert isinstance(outcome, expected)


async def test_a_refused_connection_is_tried_again_whatever_the_policy(
    make_context: MakeContext,
) -> None:
    async with peer(drop) as n8n:
        url = n8n.url()
    outcome = await trigger(Trigger(url=url, policy="at_most_once"), make_context())
    assert isinstance(outcome, RetryLater)


@pytest.mark.parametrize(
    "body",
    [b"{not json", b'{"a": NaN}', b'"\xff\xfe"', b"[" * 5_000, b'"\\ud800"', b'{"a":[1e400]}'],
)
async def test_json_that_is_none_is_kept_as_text(body: bytes, make_context: MakeContext) -> None:
    async with peer(answer(200, body, Content_Type=JSON)) as n8n:
        outcome = await trigger(Trigger(url=n8n.url()), make_context())
    assert isinstance(outcome, Succeeded)
    assert outcome.result is not None
    assert isinstance(outcome.result["body"], str)
    outcome.result["body"].encode()


async def test_a_long_answer_is_cut(make_context: MakeContext) -> None:
    async with peer(answer(200, b'"' + b"x" * 300_000 + b'"', Content_Type=JSON)) as n8n:
        outcome = await trigger(Trigger(url=n8n.url()), make_context())
    assert isinstance(outcome, Succeeded)
    assert outcome.result is not None
    assert outcome.result["cut"]
    assert len(outcome.result["body"]) == 262_144


async def test_the_guard_is_asked(make_context: MakeContext) -> None:
    async with peer(answer(200)) as inside:
        outcome = await trigger(Trigger(url=inside.url()), make_context(allow=""))
    assert isinstance(outcome, Failed)
    assert "RELAIS_OUTBOUND_ALLOW" in outcome.reason
    assert inside.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil"}, {"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}, {"Cookie": "a=b"},
        {"Connection": "upgrade"}, {"traceparent": "x"}, {"X-A": "a\r\nX-B: b"}, {"X-A": "é"},
        {"X-A": ""}, {"X-A\r\n": "b"}, {"X A": "b"}, {"x-ü": "b"}, {"": "b"}, {"X-A": "a\x00"},
    ],
)  # fmt: skip
def test_headers_that_may_not_be_set(headers: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Trigger(url="https://example.com", headers=headers)


def test_a_get_with_a_body_is_refused() -> None:
    with pytest.raises(ValidationError, match="a GET has no body"):
        Trigger(url="https://example.com", method="GET", body={})
