"""What a caller may request for lanes, and its validation."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from gateway.job_request import Moment, QueueName, Words
from ledger import lanes

NAME_MAX = lanes.NAME_MAX_BYTES
LIMIT_MAX = 200  # each costs a look at its backlog
RUNNING_MAX = 100_000
WEIGHTS = (0.001, 1_000.0)
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def _lane(value: str) -> str:
    """A name that `lanes.name` can produce, for a valid tenant."""
    if not value.isprintable():
        message = "should not contain control characters, separators or lone surrogates"
        raise ValueError(message)
    tenant, slash, rest = value.partition("/")
    if not _TENANT.fullmatch(tenant) or (slash and not rest):
        message = (
            "should be TENANT, TENANT/relay:NAME or TENANT/host:HOST, as GET /api/v1/lanes lists it"
        )
        raise ValueError(message)
    if tenant == lanes.SYSTEM:
        message = "should not be one of Relais' own lanes"
        raise ValueError(message)
    if lanes.name(value) != value:
        message = (
            f"should be no longer than {lanes.NAME_MAX_BYTES} bytes, as the names of all lanes are"
        )
        raise ValueError(message)
    return value


LaneName = Annotated[
    str, StringConstraints(min_length=1, max_length=NAME_MAX), AfterValidator(_lane)
]
EXAMPLE: JsonDict = {"lane": "acme/relay:main", "queue": "bulk"}


class OneLane(BaseModel):
    """A lane, in one queue or in all."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    lane: LaneName = Field(description="As the list names it: `acme`, `acme/relay:main`.")
    queue: QueueName | None = Field(None, description="In this queue; if omitted, in every queue.")


class PauseRequest(OneLane):
    """Which lane to pause, why, and for how long."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"lane": "acme/host:n8n.example.com", "reason": "n8n is being moved tonight"},
                {**EXAMPLE, "reason": "on its new IP", "until": "2030-05-01T09:00:00+02:00"},
            ]
        },
    )

    reason: Words = Field(description="Why; shown to anyone who finds it paused.")
    until: Moment | None = Field(
        None,
        description="When it resumes by itself (ISO 8601); if omitted, somebody has to resume it.",
    )


class LaneSettings(OneLane):
    """How many jobs of a lane at once, and how large its share is."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"lane": "acme/host:n8n.example.com", "running_max": 5}]},
    )

    running_max: Annotated[int, Field(strict=True, ge=1, le=RUNNING_MAX)] | None = Field(
        None,
        description="Most jobs at once, divided among the queue's workers, each of which may run "
        "one; if omitted, no limit of its own.",
    )
    weight: Annotated[float, Field(strict=True, ge=WEIGHTS[0], le=WEIGHTS[1])] = Field(
        1.0, description="Its share relative to the tenant's other lanes; their default is 1."
    )


class LanePage(BaseModel):
    """Which lanes, and which page of them."""

    model_config = ConfigDict(extra="forbid")

    queue: QueueName | None = Field(
        None, description="Of this queue, and what was set for every queue."
    )
    prefix: Annotated[str, StringConstraints(max_length=NAME_MAX)] = Field(
        "", description="With names that start with this."
    )
    tenant: Annotated[str, StringConstraints(pattern=f"^{_TENANT.pattern}$")] | None = Field(
        None, description="Of this tenant."
    )
    after: (
        Annotated[str, StringConstraints(max_length=2 * NAME_MAX, pattern=r"^([a-z]+|\*):")] | None
    ) = Field(None, description="Only lanes after this one: `next` of the previous page.")
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = Field(100, description="Lanes on a page.")

    def position(self) -> tuple[str, str]:
        """(lane, queue) of the last one that was shown."""
        queue, _, lane = (self.after or "").partition(":")
        return lane, queue
