from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest

from runtime.settings import Settings
from workers.isolation.pool import IsolationPool


@pytest.fixture
def isolated_settings() -> Settings:
    return Settings.model_validate(
        {
            "database_url": "postgresql://nobody@127.0.0.1:1/none",  # no handler here connects
            "kinds": ("tests.scripted_kind", "tests.isolation.deeds"),
        }
    )


@pytest.fixture
async def pool(isolated_settings: Settings) -> AsyncIterator[IsolationPool]:
    async with IsolationPool(isolated_settings, size=2) as pool:
        yield pool


@pytest.fixture
def fields() -> Callable[..., dict[str, Any]]:
    def make(kind: str = "test.scripted", **changed: object) -> dict[str, Any]:
        return {
            "job_id": str(uuid4()),
            "attempt": 1,
            "kind": kind,
            "queue": "template",
            "tenant": "default",
            "tries_left": 3,
            **changed,
        }

    return make
