"""Whatever comes in, the answer is a problem that names it; never a 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

if TYPE_CHECKING:
    import httpx
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.gateway.process import Gateway

KIND = "test.scripted_async"
JOB: dict[str, Any] = {"kind": KIND, "payload": {"mode": "ok"}}


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_OUTBOUND_ALLOW": "127.0.0.1:5678"}


DEEP = b'{"kind":"x","payload":{"a":' + b"[" * 100 + b"]" * 100 + b"}}"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"nope", 400, "malformed_json"),
        (b'{"kind": NaN}', 400, "malformed_json"),
        (b'{"kind": Infinity}', 400, "malformed_json"),
        (b"\xff\xfe{\x00}", 400, "malformed_json"),
        (b'"\xed\xa0\x80"', 400, "malformed_json"),
        (b'{"kind":"\\ud800"}', 400, "malformed_json"),
        (b"[" * 100_000, 422, "body_too_deep"),
        (b'{"a":' * 500, 422, "body_too_deep"),
        (DEEP, 422, "body_too_deep"),
        (b'{"kind":"x.y","payload":{"a":"\\u0000"}}', 422, "value_invalid"),
        (b'{"kind":"x.y","payload":{"\\u0000":1}}', 422, "value_invalid"),
        (b'{"kind":"x.y","payload":{"a":1e999}}', 422, "value_invalid"),
        (b'{"kind":"x.y","payload":{"a":-1' + b"0" * 400 + b".0}}", 422, "value_invalid"),
        (b"1" * 5000, 400, "malformed_json"),
        (b"null", 422, "value_invalid"),
        (b"[]", 422, "value_invalid"),
        (b'"text"', 422, "value_invalid"),
        (b"{}", 422, "value_invalid"),
        (b'{"kind":"no.such"}', 422, "kind_unknown"),
        (b'{"kind":"relais.canary","payload":{"queue":"bulk"}}', 422, "kind_internal"),
        (
            b'{"kind":"http.callback","payload":{"url":"https://x.example","body":{}}}',
            422,
            "kind_internal",
        ),
    ],
)
async def test_bodies(api: httpx.AsyncClient, body: bytes, status: int, code: str) -> None:
    answer = await api.post(
        "/api/v1/jobs", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["trace_id"] == answer.headers["x-trace-id"]


MAIL = {"from": "a@example.org", "to": ["b@example.org"], "text": "t"}


@pytest.mark.parametrize(
    ("job", "field", "words"),
    [
        (
            {"kind": "email.send", "payload": {**MAIL, "relay": "marketting"}},
            "payload.relay",
            "There is no relay 'marketting'. | RELAIS_RELAYS",
        ),
        (
            {**JOB, "callback_url": "http://10.0.0.7:5678/webhook-waiting/17"},
            "callback_url",
            "10.0.0.7:5678 is not on the public internet | add 10.0.0.7:5678 to RELAIS_OUTBOUND",
        ),
        ({**JOB, "callback_url": "http://localhost:5679/x"}, "callback_url", "localhost:5679"),
        ({**JOB, "callback_url": "http://[::1]/x"}, "callback_url", "public internet"),
        ({**JOB, "callback_url": "http://2130706433/x"}, "callback_url", "unusual notation"),
        ({**JOB, "callback_url": "https://1.1.1.1:22/x"}, "callback_url", "Port 22"),
        (
            {"kind": "workflow.trigger", "payload": {"url": "http://127.0.0.1:8082/messages"}},
            "payload.url",
            "127.0.0.1:8082 is not on the public internet",
        ),
    ],
)
async def test_what_is_certain_to_fail_is_refused_at_intake(
    api: httpx.AsyncClient, job: dict[str, Any], field: str, words: str
) -> None:
    answer = await api.post("/api/v1/jobs", json=job)
    assert (answer.status_code, answer.json()["code"]) == (422, "value_invalid"), answer.text
    assert answer.json()["field"] == field
    sentence, _, remedy = words.partition(" | ")
    assert sentence in answer.json()["detail"]
    assert remedy in answer.json()["remedy"]


@pytest.mark.parametrize(
    "url", ["https://n8n.example.com/x", "http://127.0.0.1:5678/x", "http://n8n:5678/x"]
)
async def test_what_may_be_reached_when_its_time_comes_is_accepted(
    api: httpx.AsyncClient, url: str
) -> None:
    assert (await api.post("/api/v1/jobs", json={**JOB, "callback_url": url})).status_code == 202


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"text": None}, "payload: A mail needs text or html, or a template."),
        ({"to": "nobody"}, None),
        ({"subject": "a\nb"}, None),
    ],
)
async def test_a_check_of_ours_speaks_in_plain_sentences(
    api: httpx.AsyncClient, change: dict[str, Any], detail: str | None
) -> None:
    job = {"kind": "email.send", "payload": {**MAIL, **change}}
    problem = (await api.post("/api/v1/jobs", json=job)).json()
    assert problem["code"] == "value_invalid"
    if detail is not None:
        assert problem["detail"] == detail
    for sentence in (problem["detail"], *(entry["detail"] for entry in problem["errors"])):
        assert "Value error" not in sentence
        assert ".." not in sentence
    assert problem["detail"].endswith(".")


async def test_a_key_without_bearer_before_it_is_told_so(gateway: Gateway) -> None:
    headers = {"authorization": gateway.keys["producer"]}
    async with gateway.async_client(role=None) as client:
        answer = await client.post("/api/v1/jobs", json=JOB, headers=headers)
    assert answer.status_code == 401
    assert "does not begin with the word Bearer" in answer.json()["detail"]
    assert "Authorization: Bearer <API key>" in answer.json()["remedy"]


async def test_nobody_can_have_a_callback_of_their_own_making_signed(
    api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    """It would tell a receiver, with a genuine signature, of a job that never was."""
    forged = {
        "kind": "http.callback",
        "payload": {
            "url": "https://n8n.example.com/webhook/done",
            "body": {"type": "job.failed", "data": {"id": "somebody else's"}},
        },
    }
    single = await api.post("/api/v1/jobs", json=forged)
    assert single.status_code == 422
    assert single.json()["code"] == "kind_internal"
    assert single.json()["field"] == "kind"
    assert "callback_url" in single.json()["remedy"]
    many = (await api.post("/api/v1/jobs/batch", json=[JOB, forged])).json()
    assert (many["accepted"], many["errors"][0]["code"]) == (1, "kind_internal")
    schedule = {"name": "forger", "cron": "@daily", "job": forged}
    planned = await api.post("/api/v1/schedules", json=schedule)
    assert (planned.json()["code"], planned.json()["field"]) == ("kind_internal", "job.kind")
    async with ledger.connect() as connection:
        found = await connection.execute(
            text("SELECT count(*) FROM relais.jobs WHERE kind = 'http.callback'")
        )
        assert found.scalar_one() == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": 7}, "kind"),
        ({"kind": ""}, "kind"),
        ({"kind": "x" * 10_000}, "kind"),
        ({"kind": KIND + "\n"}, "kind"),
        ({"payload": []}, "payload"),
        ({"payload": {"mode": "nope"}}, "payload.mode"),
        ({"payload": {"mode": "ok", "more": 1}}, "payload.more"),
        ({"queue": "nope"}, "queue"),
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": "9"}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 2**70}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"run_at": "tomorrow"}, "run_at"),
        ({"run_at": "2030-01-01T00:00:00"}, "run_at"),
        ({"run_at": 1_900_000_000}, "run_at"),
        ({"run_at": "1900000000"}, "run_at"),
        ({"run_at": "0001-01-01T00:00:00+14:00"}, "run_at"),
        ({"run_at": "9999-12-31T23:59:59-14:00"}, "run_at"),
        ({"run_at": "2030-02-30T00:00:00Z"}, "run_at"),
        ({"delay_s": -1}, "delay_s"),
        ({"delay_s": 1e300}, "delay_s"),
        ({"delay_s": "5"}, "delay_s"),
        ({"run_at": "2030-01-01T00:00:00Z", "delay_s": 5}, "body"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 1e9}, "timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 2**31}, "max_attempts"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"idempotency_key": "a\nb"}, "idempotency_key"),
        ({"callback_url": "ftp://example.org"}, "callback_url"),
        ({"callback_url": "http://"}, "callback_url"),
        ({"callback_url": "https://user:pass@example.org/"}, "callback_url"),
        ({"callback_url": "https://example.org:99999/"}, "callback_url"),
        ({"callback_url": "https://example.org/\r\nX: y"}, "callback_url"),
        ({"callback_url": "http://[::1"}, "callback_url"),
        ({"callback_url": "https://example.org/" + "x" * 3000}, "callback_url"),
        ({"tags": ["x"] * 21}, "tags"),
        ({"tags": ["x" * 101]}, "tags.0"),
        ({"tags": [""]}, "tags.0"),
        ({"tags": "x"}, "tags"),
        ({"depends_on": ["nope"]}, "depends_on.0"),
        ({"depends_on": ["00000000-0000-7000-8000-000000000000"] * 1001}, "depends_on"),
        ({"on_parent_failure": "explode"}, "on_parent_failure"),
        ({"workflow_id": ""}, "workflow_id"),
        ({"workflow_id": "x" * 201}, "workflow_id"),
        ({"deadline": "soon"}, "deadline"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_fields(api: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    answer = await api.post("/api/v1/jobs", json=JOB | change)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert (problem["code"], problem["field"]) == ("value_invalid", field)
    assert problem["remedy"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "path_unknown"),
        ("GET", "/api/v1/jobs/", 404, "path_unknown"),
        ("GET", "/api/v1/jobs/not-a-uuid", 404, "not_found"),
        ("GET", "/api/v1/jobs/00000000-0000-7000-8000-000000000000", 404, "not_found"),
        ("GET", "/api/v1/jobs/00000000-0000-7000-8000-000000000000/events", 404, "not_found"),
        ("POST", "/api/v1/jobs/00000000-0000-7000-8000-000000000000/cancel", 404, "not_found"),
        ("PUT", "/api/v1/jobs", 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/jobs", 405, "method_not_allowed"),
        ("DELETE", "/health/live", 405, "method_not_allowed"),
        ("GET", "/api/v1/jobs?limit=0", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?limit=99999999999999999999999", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?limit=x", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?state=nope", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?stat=ready", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?before=1", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?created_from=1900000000", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?created_from=0001-01-01T00:00:00Z", 422, "value_invalid"),
        ("GET", "/api/v1/jobs?tag=%00", 422, "value_invalid"),
        ("GET", "/api/v1/jobs/00000000-0000-7000-8000-000000000000?wait=NaN", 422, "value_invalid"),
        ("GET", "/api/v1/jobs/00000000-0000-7000-8000-000000000000?wait=61", 422, "value_invalid"),
        (
            "GET",
            "/api/v1/jobs/00000000-0000-7000-8000-000000000000/events?after=9223372036854775808",
            422,
            "value_invalid",
        ),
        ("GET", "/api/v1/kinds/nope%00", 404, "not_found"),
        ("GET", "/api/v1/kinds/relais.canary", 404, "not_found"),
        ("POST", "/api/v1/queues/nope/pause", 404, "not_found"),
        ("DELETE", "/api/v1/keys/rls_nope", 404, "not_found"),
        ("DELETE", "/api/v1/suppressions/nobody@example.org", 404, "not_found"),
        ("GET", "/api/v1/messages", 422, "value_invalid"),
    ],
)
async def test_paths(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await api.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ({"content-type": "text/plain"}, 415, None),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, None),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415, None),
        ({"content-type": "application/json", "idempotency-key": ""}, 422, "Idempotency-Key"),
        (
            {"content-type": "application/json", "idempotency-key": "x" * 256},
            422,
            "Idempotency-Key",
        ),
        ({"content-type": "application/json", "x-trace-id": "a b"}, 422, "X-Trace-ID"),
        ({"content-type": "application/json", "x-trace-id": "x" * 129}, 422, "X-Trace-ID"),
    ],
)
async def test_headers(
    api: httpx.AsyncClient, headers: dict[str, str], status: int, field: str | None
) -> None:
    body = b'{"kind":"test.scripted_async","payload":{}}'
    answer = await api.post("/api/v1/jobs", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json().get("field") == field


async def test_an_idempotency_key_is_given_once(api: httpx.AsyncClient) -> None:
    for path, asked in (("/api/v1/jobs", JOB), ("/api/v1/jobs/batch", [JOB])):
        headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
        answer = await api.post(path, json=asked, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "request_malformed")
        assert answer.json()["field"] == "Idempotency-Key"


async def test_header_and_field_must_agree(api: httpx.AsyncClient) -> None:
    answer = await api.post(
        "/api/v1/jobs", json=JOB | {"idempotency_key": "a"}, headers={"idempotency-key": "b"}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "idempotency_key")


async def test_wrong_mail_is_named_by_its_field(api: httpx.AsyncClient) -> None:
    payload = {
        "from": "a@example.org",
        "to": ["b@example.org\r\nBcc: c@example.org"],
        "subject": "x",
        "text": "y",
    }
    answer = await api.post("/api/v1/jobs", json={"kind": "email.send", "payload": payload})
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("payload.to")


async def test_mapped_charset_and_suffix_are_json_too(api: httpx.AsyncClient) -> None:
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"):
        answer = await api.post(
            "/api/v1/jobs",
            content=b'{"kind":"test.scripted_async","payload":{"mode":"ok"}}',
            headers={"content-type": kind},
        )
        assert answer.status_code == 202, kind
