"""Plain HTTP to the gateway, as n8n would speak it, and to the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from ops.errors import OpsError

if TYPE_CHECKING:
    from types import TracebackType

    from ops.demo.requests import Job
    from ops.demo.target import Target

TIMEOUT_S = 30.0


class Client:
    """One connection pool each; use it as a context manager."""

    def __init__(self, target: Target, *, traceparent: str) -> None:
        """Every request carries `traceparent`, so that the whole run is one trace."""
        headers = {"Authorization": f"Bearer {target.api_key}", "traceparent": traceparent}
        # A proxy from the environment has no business between two local processes.
        self._gateway = httpx.Client(
            base_url=target.gateway_url, headers=headers, timeout=TIMEOUT_S, trust_env=False
        )
        self._inbox = httpx.Client(base_url=target.inbox_url, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gateway.close()
        self._inbox.close()

    def accept(self, job: Job) -> None:
        """Submit one job; returns when it is committed (202)."""
        self._ask(self._gateway, "POST", "/api/v1/jobs", json=job)

    def accept_batch(self, jobs: list[Job]) -> int:
        """Submit many jobs; returns how many were accepted."""
        answer = self._ask(self._gateway, "POST", "/api/v1/jobs/batch", json=jobs)
        return int(answer["accepted"])

    def job_counts(self, tag: str) -> dict[str, dict[str, int]]:
        """By queue and state: how many jobs carry `tag`."""
        answer = self._ask(self._gateway, "GET", "/api/v1/jobs/stats", params={"tag": tag})
        counts: dict[str, dict[str, int]] = {}
        for row in answer["queues"]:
            counts.setdefault(row["queue"], {})[row["state"]] = int(row["jobs"])
        return counts

    def inbox_counts(self, domain: str) -> dict[str, int]:
        """What the inbox has of one recipient domain: messages, duplicates, refused ..."""
        params = {"recipient_domain": domain}
        answer: dict[str, int] = self._ask(self._inbox, "GET", "/stats", params=params)
        return answer

    def _ask(
        self,
        client: httpx.Client,
        method: str,
        path: str,
        **content: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401 - any JSON
        try:
            answer = client.request(method, path, **content)
        except httpx.TransportError as error:
            sentence = f"{client.base_url} does not respond: {error}."
            raise OpsError(sentence, remedy="See ./relais status.") from error
        if answer.is_error:
            sentence = f"{method} {path} got {answer.status_code}: {answer.text[:500]}"
            raise OpsError(sentence, remedy="See ./relais logs gateway.")
        return answer.json()
