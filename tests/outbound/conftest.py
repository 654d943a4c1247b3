from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from runtime.settings import Settings
from tasks.context import Context

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
JOB_ID = UUID("01938a6e-0000-7000-8000-000000000001")

MakeContext = Callable[..., Context]


@pytest.fixture
def make_context() -> MakeContext:
    """A context whose handlers may reach 127.0.0.1; nothing here touches a database."""

    def make(*, allow: str = "127.0.0.1", secret: str = SECRET, **changed: Any) -> Context:
        settings = Settings.model_validate(
            {"outbound_allow": allow, "callback_secret": secret, "colour": "blue"}
        )
        given: dict[str, Any] = {
            "job_id": JOB_ID,
            "attempt": 1,
            "kind": "http.callback",
            "queue": "callback",
            "tenant": "default",
            "tries_left": 9,
            "settings": settings,
            "database": create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"),
        }
        return Context(**{**given, **changed})

    return make
