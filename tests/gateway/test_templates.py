"""Stored templates and default values over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.waiting import within

if TYPE_CHECKING:
    from tests.gateway.process import Gateway

CONTENT: dict[str, Any] = {
    "subject": "Hello {{ name }}",
    "html": "<h1>Hello {{ name }}</h1><p>{{ footer }}</p>",
    "variables": {
        "properties": {
            "name": {"type": "string"},
            "footer": {"type": "string", "default": "Declared"},
        },
        "required": ["name"],
    },
}


def content(**changes: Any) -> dict[str, Any]:
    return CONTENT | changes


async def created(api: httpx.AsyncClient, **changes: Any) -> str:
    """The path of a new template."""
    name = uuid4().hex
    made = await api.post("/api/v1/templates", json=content(name=name, **changes))
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/api/v1/templates/{name}"
    return str(made.headers["location"])


async def test_a_templates_life(api: httpx.AsyncClient) -> None:
    path = await created(api)
    first = (await api.get(path)).json()
    assert (first["version"], first["mentions"]) == (1, ["footer", "name"])
    assert (first["text"], first["is_text_derived"]) == ("Hello {{ name }}\n\n{{ footer }}", True)
    assert first["compiled"] is None
    again = (await api.put(path, json=CONTENT)).json()
    assert (again["version"], again["is_new"]) == (1, False)
    changed = (await api.put(path, json=content(subject="Good day"))).json()
    assert (changed["version"], changed["is_new"]) == (2, True)
    assert (await api.get(path)).json()["subject"] == "Good day"
    assert (await api.get(f"{path}/versions/1")).json() == first
    assert (await api.get(f"{path}/versions/3")).status_code == 404
    versions = (await api.get(f"{path}/versions?limit=1")).json()
    assert ([row["version"] for row in versions["versions"]], versions["next"]) == ([2], 2)
    older = (await api.get(f"{path}/versions?before=2")).json()
    assert ([row["version"] for row in older["versions"]], older["next"]) == ([1], None)
    assert (await api.delete(path)).status_code == 204
    assert (await api.delete(path)).status_code == 404
    assert (await api.put(path, json=CONTENT)).status_code == 404
    assert (await api.get(path)).json()["archived_at"] is not None
    name = path.rpartition("/")[2]
    for query, is_there in (("", False), ("?archived=true", True)):
        listed = (await api.get(f"/api/v1/templates{query}")).json()["templates"]
        assert (name in [row["name"] for row in listed]) == is_there
    back = await api.post("/api/v1/templates", json=content(name=name))
    assert (back.status_code, back.json()["version"]) == (201, 3)


async def test_a_name_is_taken_once(api: httpx.AsyncClient) -> None:
    name = (await created(api)).rpartition("/")[2]
    again = await api.post("/api/v1/templates", json=content(name=name))
    assert (again.status_code, again.json()["field"]) == (422, "name")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"subject": "a\nb"}, "subject"),
        ({"html": None}, "body"),
        ({"mjml": "<mjml/>"}, "body"),
        ({"html": "x" * 524_289}, "html"),
        ({"html": None, "text": "x", "inline_css": True}, "body"),
        ({"html": "{{ name"}, "html"),
        ({"subject": "{% include 'x' %}"}, "subject"),
        ({"text": "{% if x %}"}, "text"),
        ({"variables": {"properties": {"a b": {}}}}, "variables.properties.a b.[key]"),
        ({"variables": {"required": ["name"]}}, "variables"),
        ({"variables": {"properties": {"a": {"type": "text"}}}}, "variables.properties.a.type"),
        ({"variables": {"properties": {"a": {"type": "array", "default": 5}}}}, "variables.properties.a"),
        ({"more": 1}, "more"),
    ],
)  # fmt: skip
async def test_wrong_templates(api: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    answer = await api.post("/api/v1/templates", json=content(name=uuid4().hex) | change)
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert answer.json()["remedy"]


async def test_versions_are_compared_by_part(api: httpx.AsyncClient) -> None:
    path = await created(api, text="one\ntwo\n")
    await api.put(path, json=content(text="one\n2\n", variables={}))
    answer = await api.get(f"{path}/diff?from=1&to=2")
    parts = answer.json()["parts"]
    assert sorted(parts) == ["text", "variables"]
    assert parts["text"] == "@@ -1,2 +1,2 @@\n one\n-two\n+2"
    assert (await api.get(f"{path}/diff?from=1&to=1")).json() == {"parts": {}}
    assert (await api.get(f"{path}/diff?from=1&to=9")).status_code == 404
    assert (await api.get(f"{path}/diff")).json()["field"] == "from"


async def preview(api: httpx.AsyncClient, path: str, **variables: Any) -> dict[str, Any]:
    answer = await api.post(f"{path}/preview", json={"variables": variables})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_a_preview_is_what_would_be_sent(api: httpx.AsyncClient) -> None:
    path = await created(api)
    shown = await preview(api, path, name="Zoë & <co>")
    assert shown["subject"] == "Hello Zoë & <co>"
    assert shown["html"] == "<h1>Hello Zoë &amp; &lt;co&gt;</h1><p>Declared</p>"
    assert shown["text"] == "Hello Zoë & <co>\n\nDeclared"
    assert 400 < shown["raw_bytes"] < 1_500
    assert (shown["missing"], shown["unset"], shown["error"]) == ([], [], None)


async def test_a_preview_says_what_is_missing(api: httpx.AsyncClient) -> None:
    path = await created(api, text="{{ more }}")
    shown = await preview(api, path, name=None)
    assert (shown["missing"], shown["unset"]) == (["name"], ["more", "name"])
    assert "the variable 'name' is missing" in shown["error"]
    assert shown["html"] is None
    wrong = await preview(api, path, name=["x"])
    assert wrong["error"].startswith("variables.name should be a text.")
    await api.put(path, json=CONTENT)
    old = await api.post(f"{path}/preview", json={"version": 1, "variables": {"name": "Ada"}})
    assert (old.json()["template"], old.json()["unset"]) == (
        f"{path.rpartition('/')[2]}@1",
        ["more"],
    )


async def test_a_template_that_runs_away_is_stopped_and_holds_up_nobody(
    api: httpx.AsyncClient,
) -> None:
    loops, ends = "{% for a in range(9999) %}" * 3, "{% endfor %}" * 3
    path = await created(api, html=None, text=f"{loops}{ends}")
    running = asyncio.create_task(preview(api, path, name="x"))
    for _ in range(3):
        with within(1.0):
            assert (await api.get(path)).status_code == 200
    shown = await running
    assert "takes more than 5 s" in shown["error"]


async def test_nothing_of_the_gateway_is_in_a_templates_reach(api: httpx.AsyncClient) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    path = await created(api, html=None, text=escape)
    shown = await preview(api, path, name="x")
    assert "unsafe" in shown["error"]


async def test_the_nearest_default_counts(gateway: Gateway, api: httpx.AsyncClient) -> None:
    path = await created(api, subject="", html="<p>{{ footer }} {{ sign }}</p>", variables={})
    name = path.rpartition("/")[2]
    seen = []
    for change in (
        {"value": "everybody's", "scope": "everybody"},
        {"value": "the tenant's"},
        {"value": "the template's", "template": name},
    ):
        put = await api.put("/api/v1/defaults/footer", json=change)
        assert put.status_code == 200, put.text
        shown = await preview(api, path, sign=1)
        seen.append(shown["text"])
        assert shown["defaults"] == ["footer"]
    assert seen == ["everybody's 1", "the tenant's 1", "the template's 1"]
    assert (await preview(api, path, sign=1, footer="mine"))["text"] == "mine 1"
    listed = (await api.get("/api/v1/defaults?limit=2")).json()
    rest = (await api.get("/api/v1/defaults", params={"after": listed["next"]})).json()
    both = [*listed["defaults"], *rest["defaults"]]
    assert [(row["scope"], row["template"], row["used"]) for row in both] == [
        ("everybody", None, 0),
        ("tenant", None, 0),
        ("tenant", name, 0),
    ]
    only = (await api.get("/api/v1/defaults", params={"template": name})).json()["defaults"]
    assert [row["value"] for row in only] == ["the template's"]
    key = await asyncio.to_thread(gateway.make_key, "admin", tenant="other")
    async with httpx.AsyncClient(base_url=gateway.url, headers={"x-api-key": key}) as other:
        refused = await other.put("/api/v1/defaults/x", json={"value": 1, "scope": "everybody"})
        assert (refused.status_code, refused.json()["code"]) == (403, "default_tenant_only")
        theirs = (await other.get("/api/v1/defaults")).json()["defaults"]
        assert [row["scope"] for row in theirs] == ["everybody"]
        assert (await other.get(path)).status_code == 404
        assert (await other.post(f"{path}/preview", json={})).status_code == 404
    for query in ("?scope=everybody", "", f"?template={name}"):
        assert (await api.delete(f"/api/v1/defaults/footer{query}")).status_code == 204
        assert (await api.delete(f"/api/v1/defaults/footer{query}")).status_code == 404


@pytest.mark.parametrize(
    ("variable", "body", "status"),
    [
        ("a-b", {"value": 1}, 404),
        ("a", {}, 422),
        ("a", {"value": "x" * 16_384}, 422),
        ("a", {"value": 1, "template": "a b"}, 422),
        ("a", {"value": 1, "scope": "nobody"}, 422),
    ],
)
async def test_wrong_defaults(
    api: httpx.AsyncClient, variable: str, body: dict[str, Any], status: int
) -> None:
    answer = await api.put(f"/api/v1/defaults/{variable}", json=body)
    assert answer.status_code == status, answer.text


async def test_producers_preview_and_do_not_write(gateway: Gateway, api: httpx.AsyncClient) -> None:
    path = await created(api)
    async with gateway.async_client("producer") as producer:
        assert (await preview(producer, path, name="Ada"))["subject"] == "Hello Ada"
        for answer in (
            await producer.put(path, json=CONTENT),
            await producer.delete(path),
            await producer.put("/api/v1/defaults/a", json={"value": 1}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "role_missing")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"template": "welcome"}, None),
        ({"template": "welcome@3", "variables": {"name": "Ada"}}, None),
        ({"template": "welcome@0"}, "payload.template"),
        ({"template": "wel come"}, "payload.template"),
        ({"template": "welcome", "subject": "x"}, "payload"),
        ({"template": "welcome", "html": "x"}, "payload"),
        ({}, "payload"),
    ],
)
async def test_a_mail_may_name_a_template(
    api: httpx.AsyncClient, change: dict[str, Any], field: str | None
) -> None:
    payload = {"from": "a@example.org", "to": "b@example.org"} | change
    answer = await api.post("/api/v1/jobs", json={"kind": "email.send", "payload": payload})
    assert (answer.status_code, answer.json().get("field")) == (422 if field else 202, field)
