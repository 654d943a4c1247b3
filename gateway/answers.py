"""Answers as bytes: JSON by pydantic-core, problems as application/problem+json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from starlette.responses import Response

from runtime import telemetry

if TYPE_CHECKING:
    from gateway.errors import Problem


class Answer(Response):
    """JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - any JSON
        """`content` as JSON; datetimes, UUIDs and models included."""
        return content if isinstance(content, bytes) else to_json(content, inf_nan_mode="null")


class ProblemAnswer(Answer):
    """A problem (RFC 9457)."""

    media_type = "application/problem+json"


def refuse(problem: Problem) -> ProblemAnswer:
    """The answer that tells a caller about `problem`."""
    document = problem.document()
    ids = telemetry.current_ids()
    if ids is not None:
        document["trace_id"] = ids[0]
    return ProblemAnswer(document, status_code=problem.status, headers=problem.headers)
