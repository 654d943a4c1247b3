"""Pages for people, and the examples on them, which are sent as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gateway import app as application
from gateway import reference
from gateway.errors import CODES
from runtime.settings import Settings

if TYPE_CHECKING:
    from tests.gateway.process import Gateway

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def document() -> dict[str, Any]:
    edge = application.create(Settings.model_validate({"database_url": "postgresql://x/y"}))
    return edge.app.openapi()


DOCUMENT = document()
EXAMPLES = [
    (operation["method"], operation["path"], example["value"])
    for group in reference.groups(DOCUMENT)
    for operation in group["operations"]
    for example in operation["examples"]
    if "value" in example
]


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_stands_alone(gateway: Gateway, path: str) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        page = await client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        # One script of our own on /docs, nothing inline.
        scripts = re.findall(r"<script[^>]*>[^<]*", page.text)
        assert scripts == (['<script src="/docs.js">'] if path == "/docs" else [])
        assert "script-src 'self';" in policy
        assert "style=" not in page.text
        wanted = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        for reference_ in wanted:
            assert reference_.startswith("/"), reference_
            answer = await client.get(reference_)
            assert answer.status_code == 200, reference_


async def test_the_first_page_shows_the_address_it_was_opened_under(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        page = (await client.get("/")).text
        odd = (await client.get("/", headers={"Host": 'a"; reboot "'})).text
    assert f'curl "{gateway.url}/api/v1/jobs"'.replace('"', "&#34;") in page.replace('"', "&#34;")
    assert "reboot" not in odd


async def test_the_docs_show_the_payload_of_each_kind(
    gateway: Gateway, api: httpx.AsyncClient
) -> None:
    page = (await api.get("/docs")).text
    for kind in (await api.get("/api/v1/kinds")).json()["kinds"]:
        about = page[page.index(f'id="kind-{kind["name"]}"') :].split("</details>")[0]
        full = (await api.get(f"/api/v1/kinds/{kind['name']}")).json()
        for field in full["payload_schema"]["properties"]:
            assert re.search(rf'<code class="(must)?">{field}</code>', about), (kind, field)


def test_a_payload_that_is_made_of_itself_can_be_shown() -> None:
    looped = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Loop"}}, {"type": "null"}]}
    [shown] = reference._fields({"properties": {"a": looped}}, {"Loop": looped})
    assert shown["type"].startswith("list of list of")


async def test_the_docs_show_everything(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        page = (await client.get("/docs")).text
    for path in DOCUMENT["paths"]:
        assert f"<code>{path}</code>" in page
    for code in CODES:
        assert f'id="{code}"' in page


@pytest.mark.parametrize(("method", "path", "value"), EXAMPLES)
async def test_examples_work_as_they_stand(
    api: httpx.AsyncClient, method: str, path: str, value: Any
) -> None:
    if "{job_id}" in path:
        pytest.skip("needs a job in a certain state; the tests of actions send this body")
    if "{schedule_id}" in path:
        first = (await api.get("/api/v1/schedules")).json()["schedules"][0]
        path = path.replace("{schedule_id}", first["id"])
    path = path.replace("{name}", "welcome").replace("{variable}", "footer")
    answer = await api.request(method, path, json=value)
    assert answer.status_code in {200, 201, 202}, answer.text


def test_there_are_examples_for_every_body() -> None:
    with_body = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    assert {(method, path) for method, path, _ in EXAMPLES} == with_body


def test_the_guide_lists_every_code() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", DOCS.read_text("utf-8"), re.MULTILINE))
    assert listed == {str(code): str(status) for code, (status, _) in CODES.items()}


def test_the_guide_lists_every_operation() -> None:
    listed = set(re.findall(r"^\| `([A-Z]+) (/[^`?]*)`", DOCS.read_text("utf-8"), re.MULTILINE))
    there = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }
    assert listed == there


async def test_live_and_ready(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        health = ready.json()
        assert health["status"] == "degraded"  # nobody works here
        assert health["parts"]["ledger"]["status"] == "ok"
        assert health["parts"]["redis"]["status"] == "ok"
        assert health["parts"]["queues"]["bulk"]["status"] == "no worker"
        assert (await client.get("/health/ready?complete=true")).status_code == 503
