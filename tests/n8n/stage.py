"""The running parts of a proof, and the claims that are checked."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import httpx

from ops.errors import OpsError
from tasks.outbound import signature

if TYPE_CHECKING:
    from ops.demo.target import Target
    from tests.n8n.recorder import Passed, Recorder
    from tests.n8n.server import N8n

PATIENCE_S = 120.0
LOOK_S = 0.1

Found = TypeVar("Found")


class ProofError(OpsError):
    """What was to be proven did not come about in time."""


@dataclass(slots=True)
class Verdict:
    """What was checked, in the order in which it was."""

    failed: list[str] = field(default_factory=list)

    def check(self, claim: str, *, holds: bool, seen: object = "") -> None:
        """Print whether `claim` holds; `seen` says what there was instead."""
        print(f"  {'ok  ' if holds else 'FAIL'} {claim}{'' if holds else f' - seen: {seen}'}")
        if not holds:
            self.failed.append(claim)


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs."""

    target: Target
    n8n: N8n
    recorder: Recorder
    verdict: Verdict

    def trigger(self, path: str, *, trace_id: str, **body: object) -> int:
        """Start a workflow by its webhook; the id of its execution."""
        before = self.n8n.last_execution()
        headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        url = f"{self.recorder.url}/webhook/{path}"

        def started() -> bool:
            answer = httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)
            # n8n answers before it has activated every workflow: nothing was started then.
            return (
                answer.status_code != httpx.codes.NOT_FOUND and answer.raise_for_status().is_success
            )

        wait_for(f"{url} to be registered", started)
        return wait_for(f"an execution of {path}", lambda: self.n8n.execution_after(before))

    def wait(self, execution: int, *statuses: str) -> str:
        """Wait until an execution has one of `statuses`; which one."""

        def look() -> str | None:
            status = self.n8n.status(execution)
            return status if status in statuses else None

        return wait_for(f"execution {execution} to be {' or '.join(statuses)}", look)

    def callbacks(self, execution: int) -> list[Passed]:
        """The callbacks to one execution's resume URL."""
        path = f"/webhook-waiting/{execution}"
        return [one for one in self.recorder.passed if one.path.partition("?")[0] == path]

    def forge(self, execution: int, body: object) -> None:
        """Post what looks like a callback, signed with a secret that is not Relais's."""
        content = json.dumps(body).encode()
        headers = {
            "content-type": "application/json",
            **signature.headers_of(
                message_id="msg_forged",
                body=content,
                secrets=(secrets.token_bytes(32),),
                timestamp=int(time.time()),
            ),
        }
        url = f"{self.recorder.url}/webhook-waiting/{execution}"
        httpx.post(url, content=content, headers=headers, timeout=60, trust_env=False)

    def pause(self, queue: str, *, paused: bool) -> None:
        """Pause or resume one queue."""
        verb = "pause" if paused else "resume"
        httpx.post(
            f"{self.target.gateway_url}/api/v1/queues/{queue}/{verb}",
            headers={"Authorization": f"Bearer {self.target.api_key}"},
            trust_env=False,
        ).raise_for_status()


def wait_for(what: str, look: Callable[[], Found | None]) -> Found:
    """Look until something is found; raises ProofError after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            message = f"Waited {PATIENCE_S:.0f} s in vain for {what}."
            raise ProofError(message)
        time.sleep(LOOK_S)
    return found
