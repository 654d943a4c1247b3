"""The query parameters that say which jobs are meant."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from gateway.job_request import KindName, Moment, QueueName, Tag, Words
from ledger.filters import JobFilter
from ledger.models.jobs import State


class Filter(BaseModel):
    """Conditions that must all hold; unknown names are refused, so that none is ignored."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[list[State], Field(max_length=8)] = Field(
        default_factory=list, description="In any of these states."
    )
    queue: QueueName | None = Field(None, description="In this queue.")
    kind: KindName | None = Field(None, description="Of this kind.")
    tag: Tag | None = Field(None, description="With this tag.")
    workflow_id: Words | None = Field(None, description="Of this workflow.")
    created_from: Moment | None = Field(None, description="Accepted then or later (ISO 8601).")
    created_until: Moment | None = Field(None, description="Accepted before then (ISO 8601).")

    def matching(self) -> JobFilter:
        """The filter as the ledger reads it."""
        return JobFilter(
            states=tuple(dict.fromkeys(self.state)),
            queue=self.queue,
            kind=self.kind,
            tag=self.tag,
            workflow_id=self.workflow_id,
            created_from=self.created_from,
            created_until=self.created_until,
        )


class Page(Filter):
    """A filter, and which page of what it matches."""

    before: UUID | None = Field(
        None, description="Only jobs older than this one: `next` of the previous page."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="Jobs on a page.")
