"""The kind that benchmarks run: it does nothing."""

from __future__ import annotations

from pydantic import BaseModel

from tasks.context import Context
from tasks.kinds import kind
from tasks.outcomes import Outcome, Succeeded


class Nothing(BaseModel):
    """No payload."""


@kind("bench.nothing", payload=Nothing, queue="bulk")
async def nothing(payload: Nothing, context: Context) -> Outcome:
    """Do nothing."""
    del payload, context
    return Succeeded()
