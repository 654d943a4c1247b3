from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import create_async_engine

from runtime.settings import Settings
from tasks.context import Context
from tasks.outcomes import Failed, Succeeded
from tasks.templates.render import TemplateRender, render_template
from workers.isolation.pool import IsolationPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    settings = Settings()
    async with IsolationPool(settings, size=1) as pool:

        async def isolate(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            return await pool.call(name, arguments, 30)

        yield Context(
            job_id=uuid4(),
            attempt=1,
            kind="template.render",
            queue="template",
            tenant="default",
            tries_left=2,
            settings=settings,
            database=create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"),
            isolate=isolate,
        )


async def test_one_template(context: Context) -> None:
    payload = TemplateRender(template="Hello <{{ name }}>!", variables={"name": "Zoë & Co"})
    assert await render_template(payload, context) == Succeeded({"output": "Hello <Zoë & Co>!"})
    escaped = payload.model_copy(update={"autoescape": True})
    assert await render_template(escaped, context) == Succeeded({"output": "Hello <Zoë &amp; Co>!"})


async def test_the_parts_of_a_mail(context: Context) -> None:
    payload = TemplateRender(subject="{{ n }}", html="<b>{{ n }}</b>", variables={"n": "<1>"})
    assert await render_template(payload, context) == Succeeded(
        {"subject": "<1>", "html": "<b>&lt;1&gt;</b>"}
    )


async def test_a_wrong_template_fails_for_good_and_names_its_line(context: Context) -> None:
    outcome = await render_template(TemplateRender(template="\n{{ name }}"), context)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("Template output, line 2: the variable 'name' is missing.")


async def test_a_memory_bomb_fails_alone(context: Context) -> None:
    bomb = TemplateRender(template="{{ 'x' | center(90000000000) }}")
    outcome = await render_template(bomb, context)
    assert isinstance(outcome, Failed)
    assert "memory" in outcome.reason
    assert await render_template(TemplateRender(template="ok"), context) == Succeeded(
        {"output": "ok"}
    )


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"template": "a", "text": "b"},
        {"template": "a", "extra": 1},
        {"template": "a", "output_max_bytes": 0},
        {"template": "a" * 1_048_577},
        {"variables": {"a": 1}},
    ],
)
def test_payloads_that_are_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TemplateRender.model_validate(payload)
