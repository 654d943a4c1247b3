"""What a caller may submit: the body of a job, and its validation."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
)
from pydantic_core import SchemaValidator, core_schema

QueueName = Literal["critical", "template", "bulk", "vector", "callback"]
WishedQueue = Literal["critical", "template", "bulk"]  # the others are for their own kinds
PRIORITY = 5
TEN_YEARS_S = 10 * 366 * 86_400.0
DAY_S = 86_400.0
# Later than any job will run, and far from where dates stop fitting into Postgres.
YEARS = (2000, 2999)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ].*", re.ASCII)
_URL = re.compile(r"[\x21-\x7e\u00a0-\U0010ffff]{8,2048}")


def _only_iso(value: object) -> object:
    """Numbers are not dates: seconds cannot be told from milliseconds."""
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE.fullmatch(value)):
        return value
    message = "should be an ISO 8601 date and time with a zone, like 2030-05-01T09:00:00+02:00"
    raise ValueError(message)


def _in_range(value: datetime) -> datetime:
    if not YEARS[0] <= value.year <= YEARS[1]:
        message = f"should be between the years {YEARS[0]} and {YEARS[1]}"
        raise ValueError(message)
    return value


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    if (
        not port_is_valid
        or not _URL.fullmatch(value)
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
    ):
        message = "should be an http or https URL of at most 2048 characters"
        raise ValueError(message)
    if "@" in parts.netloc:
        message = "should not contain credentials"
        raise ValueError(message)
    return value


def _printable(value: str) -> str:
    if any(character < " " or character == "\x7f" for character in value):
        message = "should not contain control characters"
        raise ValueError(message)
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_only_iso), AfterValidator(_in_range)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_printable)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
KindName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$"),
]
Key = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)]

EXAMPLES: dict[str, dict[str, Any]] = {
    "critical_mail": {
        "summary": "A password mail, ahead of everything else",
        "value": {
            "kind": "email.send",
            "queue": "critical",
            "priority": 9,
            "payload": {
                "from": "Relais <hello@example.org>",
                "to": ["ada@example.org"],
                "subject": "Your new password",
                "text": "Choose it here: https://example.org/reset",
            },
            "idempotency_key": "password-reset-4711",
        },
    },
    "templated_mail": {
        "summary": "A mail from a template, tomorrow morning, with a callback",
        "value": {
            "kind": "email.send",
            "payload": {
                "from": "hello@example.org",
                "to": ["grace@example.org"],
                "subject": "Bonjour {{ name }}",
                "html": "<p>Bonjour {{ name }}</p>",
                "variables": {"name": "Grâce"},
            },
            "run_at": "2030-05-01T09:00:00+02:00",
            "callback_url": "https://n8n.example.org/webhook-waiting/17",
            "tags": ["newsletter", "may"],
            "workflow_id": "welcome",
        },
    },
    "render": {
        "summary": "A rendered template, as soon as possible",
        "value": {
            "kind": "template.render",
            "payload": {"template": "Bonjour {{ name }}", "variables": {"name": "Ada"}},
            "timeout_s": 10,
            "max_attempts": 3,
        },
    },
}


class JobRequest(BaseModel):
    """One job: what to do, and how urgently, when and how often to try."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [e["value"] for e in EXAMPLES.values()]}
    )

    kind: KindName = Field(description="What to do; /api/v1/kinds lists them.")
    payload: dict[str, Any] = Field(
        default_factory=dict, description="What the kind needs; its schema is at /api/v1/kinds."
    )
    queue: WishedQueue | None = Field(
        None,
        description="A preference; without one the kind, the size, the workflow and the "
        "deadline decide.",
    )
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = Field(
        PRIORITY, description="9 is most urgent, within its queue."
    )
    run_at: Moment | None = Field(None, description="Not before; ISO 8601 with a zone.")
    delay_s: Annotated[float, Field(strict=True, ge=0, le=TEN_YEARS_S)] | None = Field(
        None, description="Wait this many seconds before running."
    )
    timeout_s: Annotated[float, Field(strict=True, gt=0, le=DAY_S)] | None = Field(
        None, description="Time limit of one attempt, in seconds; default: the kind's."
    )
    max_attempts: Annotated[int, Field(strict=True, ge=1, le=100)] | None = Field(
        None, description="Number of attempts; default: the kind's."
    )
    idempotency_key: Key | None = Field(
        None, description="Two requests with one key create one job. Same as the header."
    )
    callback_url: (
        Annotated[str, StringConstraints(max_length=2048), AfterValidator(_http_url)] | None
    ) = Field(None, description="Gets a signed callback when the job has ended.")
    tags: Annotated[list[Tag], Field(max_length=20)] = Field(
        default_factory=list, description="Words to find the job by."
    )
    depends_on: Annotated[list[UUID], Field(max_length=1000)] = Field(
        default_factory=list, description="Jobs that must succeed first."
    )
    on_parent_failure: Literal["fail", "release"] = Field(
        "fail", description="What happens to this job when one of them fails."
    )
    workflow_id: Words | None = Field(
        None, description="The caller's own name for the workflow that the job is part of."
    )
    deadline: Moment | None = Field(
        None,
        description="A near one is urgent; a job that has not started by then fails. In the "
        "future, by Postgres' clock.",
    )


def _fields() -> SchemaValidator:
    """The fields of JobRequest as given: takes a third of the time that a model needs."""
    fields = {
        name: core_schema.typed_dict_field(
            TypeAdapter(field.rebuild_annotation()).core_schema,
            required=field.is_required(),
        )
        for name, field in JobRequest.model_fields.items()
    }
    return SchemaValidator(core_schema.typed_dict_schema(fields, extra_behavior="forbid"))


_FIELDS = _fields()


def validate(asked: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """The fields of a JobRequest that `asked` gives, checked; raises ValidationError."""
    request: dict[str, Any] = _FIELDS.validate_python(asked)
    return request
