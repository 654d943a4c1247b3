"""Who may do what: roles, keys, tokens, tenants, rates."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text

from gateway import app as application
from gateway.callers import Caller
from gateway.errors import Problem
from gateway.guard import GuardedRoute
from gateway.rate import RateLimit
from gateway.tokens import Tokens
from ledger import api_keys
from runtime.errors import SettingsError
from runtime.settings import Settings
from tests.gateway.process import free_port
from tests.launcher import ROOT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.gateway.process import Gateway

SECRET = "s" * 48
OPEN = {
    "/",
    "/docs",
    "/openapi.json",
    "/docs.js",
    "/relais.css",
    "/favicon.ico",
    "/health/live",
    "/health/ready",
}
ASKS_ITSELF = {"/metrics"}  # open on this machine, guarded from elsewhere: see below
JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_JWT_KEY": SECRET, "RELAIS_JWT_ISSUER": "https://issuer.example"}


def routes() -> list[tuple[str, str, frozenset[str]]]:
    """(method, path, roles) of everything the gateway answers."""
    edge = application.create(Settings.model_validate({"database_url": "postgresql://x/y"}))
    found = []
    for route in edge.app.router.routes:
        assert isinstance(route, GuardedRoute), f"{route} has no guard"
        roles = frozenset((route.openapi_extra or {})["x-roles"])
        found += [(method, route.path, roles) for method in sorted(route.methods or ())]
    return found


ROUTES = routes()


def test_nothing_is_open_that_should_not_be() -> None:
    assert {path for _, path, roles in ROUTES if not roles} == OPEN | ASKS_ITSELF


@pytest.mark.parametrize(("method", "path", "roles"), ROUTES)
async def test_every_route_holds_its_roles(
    gateway: Gateway, method: str, path: str, roles: frozenset[str]
) -> None:
    concrete = (
        path.replace("{job_id}", NOWHERE)
        .replace("{schedule_id}", NOWHERE)
        .replace("{name}", "nope")
        .replace("{prefix}", "rls_nope")
        .replace("{address}", "nobody@example.org")
    )
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        stranger = await client.request(method, concrete)
        assert (stranger.status_code == 401) == bool(roles)
        if roles:
            assert stranger.headers["www-authenticate"].startswith("Bearer")
        for role in api_keys.ROLES:
            answer = await client.request(
                method, concrete, headers={"x-api-key": gateway.keys[role]}
            )
            is_refused = answer.status_code == 403 and answer.json()["code"] == "role_missing"
            assert is_refused == (bool(roles) and role not in roles), f"{role}: {answer.text}"
            assert answer.status_code < 500


async def test_metrics_want_a_key_through_a_proxy(gateway: Gateway) -> None:
    proxied = {"x-forwarded-for": "203.0.113.9"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=proxied) as client:
        assert (await client.get("/metrics")).status_code == 401
        for role, status in {"viewer": 200, "producer": 403}.items():
            answer = await client.get("/metrics", headers={"x-api-key": gateway.keys[role]})
            assert answer.status_code == status


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:8080", "127.0.0.1.x.y", "a_b.example"]
)
async def test_metrics_want_a_key_under_a_foreign_name(gateway: Gateway, host: str) -> None:
    """A page in a browser on this machine may have its own name lead here (DNS rebinding)."""
    async with httpx.AsyncClient(base_url=gateway.url, headers={"host": host}) as client:
        assert (await client.get("/metrics")).status_code == 401
        for own in ("localhost:9", "127.0.0.1", "[::1]:80"):
            assert (await client.get("/metrics", headers={"host": own})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Basic cmVsYWlzOnB3"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer rls_short"},
        {"authorization": f"Bearer {api_keys.mint()[:-1]}x"},
        {"authorization": f"Bearer {api_keys.mint()}"},
        {"x-api-key": api_keys.mint()},
        {"x-api-key": "' OR 1=1 --"},
        {"x-api-key": api_keys.mint(), "authorization": f"Bearer {api_keys.mint()}"},
    ],
)
async def test_other_credentials_open_nothing(gateway: Gateway, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
        answer = await client.get("/api/v1/jobs")
    assert answer.status_code == 401
    assert answer.json()["code"] in {"credentials_invalid", "credentials_missing"}
    assert answer.headers["www-authenticate"]


async def test_a_revoked_key_is_refused_within_two_seconds(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    made = (await api.post("/api/v1/keys", json={"name": "short", "role": "viewer"})).json()
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"x-api-key": made["key"]}
    ) as client:
        assert (await client.get("/api/v1/jobs")).status_code == 200
        assert (await api.delete(f"/api/v1/keys/{made['prefix']}")).status_code == 204

        async def is_refused() -> bool:
            answer = await client.get("/api/v1/jobs")
            return answer.status_code == 401 and answer.json()["code"] == "key_revoked"

        await wait_for(is_refused, within_s=2.5)


async def test_an_expired_key_says_so(gateway: Gateway) -> None:
    key = await asyncio.to_thread(gateway.make_key, "viewer", expires_in_s=0.001)
    async with httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}) as client:
        answer = await client.get("/api/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_expired")
    assert answer.json()["remedy"]


async def test_keys_are_listed_without_their_secret(api: httpx.AsyncClient) -> None:
    made = (await api.post("/api/v1/keys", json={"name": "n8n", "role": "producer"})).json()
    listed = (await api.get("/api/v1/keys")).json()["keys"]
    assert listed[0]["prefix"] == made["prefix"] == made["key"][:12]
    assert made["key"] not in str(listed)
    assert api_keys.is_well_formed(made["key"])


def token(**changes: Any) -> str:
    claims = {
        "iss": "https://issuer.example",
        "aud": "relais",
        "exp": int(time.time()) + 86_400,
        "sub": "ada",
        "role": "viewer",
        "tenant": "default",
    } | changes
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, SECRET, "HS256")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (token(), 200),
        (token(role="producer"), 403),
        (token(role="root"), 401),
        (token(role=None), 401),
        (token(tenant=None), 401),
        (token(tenant="../x"), 401),
        (token(tenant=5), 401),
        (token(sub="a\0b"), 401),
        (token(exp=None), 401),
        (token(exp=1), 401),
        (token(exp=int(time.time()) - 60), 401),
        (token(nbf=int(time.time()) + 600), 401),
        (token(iss="https://issuer.example/"), 401),
        (token(iss=None), 401),
        (token(aud="other"), 401),
        (token(aud=["relais", "other"]), 401),
        (token(aud=None), 401),
        (jwt.encode({"iss": "https://issuer.example", "aud": "relais", "exp": 9e9, "role": "admin", "tenant": "default"}, "x" * 48, "HS256"), 401),
        (jwt.encode({"iss": "https://issuer.example", "aud": "relais", "exp": 9e9, "role": "admin", "tenant": "default"}, SECRET + "s" * 16, "HS512"), 401),
        (jwt.encode({"iss": "https://issuer.example", "aud": "relais", "exp": 9e9, "role": "admin", "tenant": "default"}, None, "none"), 401),  # type: ignore[arg-type]  # no key: the attack
        ("a.b.c", 401),
        ("..", 401),
        ("x" * 9000 + ".a.b", 401),
    ],
)  # fmt: skip
async def test_tokens(gateway: Gateway, value: str, status: int) -> None:
    headers = {"authorization": f"Bearer {value}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
        answer = await client.get("/api/v1/queues")
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "changes",
    [
        {"jwt_key": "short", "jwt_issuer": "i"},
        {"jwt_key": SECRET, "jwt_issuer": ""},
        {"jwt_key": SECRET, "jwt_issuer": "i", "jwt_algorithm": "RS256"},
        {"jwt_key": "-----BEGIN PUBLIC KEY-----\n" + "A" * 60, "jwt_issuer": "i"},
    ],
)
def test_unsafe_token_settings_are_refused_at_the_start(changes: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        Tokens(Settings.model_validate(changes))


def test_a_private_key_is_no_public_one() -> None:
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    changes = {"jwt_key": private.decode(), "jwt_issuer": "i", "jwt_algorithm": "ES256"}
    with pytest.raises(SettingsError, match="RELAIS_JWT_KEY is a private key"):
        Tokens(Settings.model_validate(changes))


def test_wrong_token_settings_are_a_sentence_and_no_traceback(gateway: Gateway) -> None:
    changed = replace(
        gateway,
        extra={"RELAIS_JWT_KEY": "short", "RELAIS_JWT_ISSUER": "i"},
        settings=gateway.settings.model_copy(update={"gateway_port": free_port()}),
    )
    ended = subprocess.run(
        [sys.executable, "-m", "gateway"],
        env=changed.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "RELAIS_JWT_KEY" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "traceback" not in ended.stderr


def test_without_a_key_tokens_are_refused() -> None:
    with pytest.raises(Problem):
        Tokens(Settings()).verify(token())


async def test_a_stranger_tenant_sees_nothing(gateway: Gateway, api: httpx.AsyncClient) -> None:
    tag = uuid4().hex
    job = (await api.post("/api/v1/jobs", json=JOB | {"tags": [tag]})).json()["id"]
    await api.post("/api/v1/suppressions", json={"addresses": ["mine@example.org"]})
    schedule = (
        await api.post("/api/v1/schedules", json={"name": tag, "cron": "@daily", "job": JOB})
    ).json()["id"]
    key = await asyncio.to_thread(gateway.make_key, "admin", tenant="other")
    async with httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}) as other:
        for path in (f"jobs/{job}", f"jobs/{job}/events", f"schedules/{schedule}"):
            assert (await other.get(f"/api/v1/{path}")).status_code == 404, path
        for action in ("retry", "cancel", "resolve"):
            body = {"state": "failed"} if action == "resolve" else None
            answer = await other.post(f"/api/v1/jobs/{job}/{action}", json=body)
            assert answer.status_code == 404, action
        assert (await other.get("/api/v1/jobs")).json()["jobs"] == []
        assert (await other.get("/api/v1/jobs/stats")).json()["total"] == 0
        assert (await other.get(f"/api/v1/messages?job_id={job}")).json()["messages"] == []
        assert (await other.get("/api/v1/suppressions")).json()["suppressions"] == []
        assert (await other.get("/api/v1/schedules")).json()["schedules"] == []
        assert len((await other.get("/api/v1/keys")).json()["keys"]) == 1
        retried = await other.post("/api/v1/jobs/retry", json={"filter": {"tag": tag}})
        assert retried.json()["matched"] == 0
        gone = await other.delete("/api/v1/suppressions/mine@example.org")
        assert gone.status_code == 404
        assert (await other.delete(f"/api/v1/schedules/{schedule}")).status_code == 404
        queue = next(
            q
            for q in (await other.get("/api/v1/queues")).json()["queues"]
            if q["name"] == "template"
        )
        assert queue["ready"] == 0
        paused = await other.post("/api/v1/queues/bulk/pause")
        assert (paused.status_code, paused.json()["code"]) == (403, "default_tenant_only")
    assert (await api.get(f"/api/v1/jobs/{job}")).json()["state"] == "ready"


async def test_a_producer_sees_and_cancels_what_its_own_key_submitted(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    other_key = await asyncio.to_thread(gateway.make_key, "producer")
    mine, others = {"tags": [uuid4().hex]}, {"tags": [uuid4().hex]}
    async with (
        gateway.async_client("producer") as one,
        httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": other_key}) as two,
    ):
        own = (await one.post("/api/v1/jobs", json=JOB | mine)).json()["id"]
        foreign = (await two.post("/api/v1/jobs", json=JOB | others)).json()["id"]
        listed = [job["id"] for job in (await one.get("/api/v1/jobs")).json()["jobs"]]
        assert own in listed
        assert foreign not in listed
        assert (await one.get("/api/v1/jobs", params={"tag": others["tags"][0]})).json()[
            "jobs"
        ] == []
        assert (await one.get("/api/v1/messages", params={"job_id": own})).status_code == 200
        refused = await one.get("/api/v1/messages", params={"job_id": foreign})
        assert (refused.status_code, refused.json()["code"]) == (403, "role_missing")
        assert "submitted with another key" in refused.json()["detail"]
        assert (await one.get("/api/v1/messages", params={"job_id": NOWHERE})).status_code == 404
        kept = await one.post(f"/api/v1/jobs/{foreign}/cancel")
        assert (kept.status_code, kept.json()["code"]) == (403, "role_missing")
        assert (await one.post(f"/api/v1/jobs/{own}/cancel")).json()["state"] == "cancelled"
    assert (await api.get(f"/api/v1/jobs/{foreign}")).json()["state"] == "ready"
    assert (await api.get("/api/v1/messages", params={"job_id": foreign})).status_code == 200


async def test_a_key_has_its_rate(gateway: Gateway) -> None:
    key = await asyncio.to_thread(gateway.make_key, "viewer", rate_per_s=5.0)
    async with httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}) as client:
        answers = [await client.get("/api/v1/kinds") for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 3
        assert refused[0].json()["code"] == "rate_limited"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].headers["ratelimit"].startswith('"key";r=0')

        async def is_served() -> bool:
            return (await client.get("/api/v1/kinds")).status_code == 200

        await wait_for(is_served)


async def test_a_rate_of_almost_nothing_is_refused_and_harms_nobody_who_has_it(
    gateway: Gateway, api: httpx.AsyncClient, ledger: AsyncEngine
) -> None:
    asked = {"name": "slow", "role": "viewer", "rate_per_s": 5e-324}
    assert (await api.post("/api/v1/keys", json=asked)).status_code == 422
    made = (await api.post("/api/v1/keys", json=asked | {"rate_per_s": 1})).json()
    async with ledger.begin() as connection:  # as an earlier release allowed
        await connection.execute(
            text("UPDATE relais.api_keys SET rate_per_s = 5e-324 WHERE prefix = :prefix"),
            {"prefix": made["prefix"]},
        )
    headers = {"x-api-key": made["key"]}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
        answers = [(await client.get("/api/v1/kinds")).status_code for _ in range(3)]
    assert answers == [200, 429, 429]


def test_a_bucket_fills_with_time() -> None:
    now = [100.0]
    limit = RateLimit(rate_per_s=2.0, clock=lambda: now[0])
    caller = Caller("k", "default", "viewer")
    limit.spend(caller)
    limit.spend(caller)
    with pytest.raises(Problem):
        limit.spend(caller)
    limit.spend(Caller("k", "other", "viewer"))  # buckets are nobody else's
    now[0] += 0.5
    limit.spend(caller)
    with pytest.raises(Problem):
        limit.spend(caller)
