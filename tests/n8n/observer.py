"""What is asked of Relais and of the inbox after n8n has done its part."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from ops.demo.target import Target
    from tests.n8n.recorder import Passed

PAGE = 200
_SECRET_PREFIX = "whsec_"


def producer_key(target: Target) -> str:
    """A key as docs/n8n.md has users make one; good for a day."""
    answer = httpx.post(
        f"{target.gateway_url}/api/v1/keys",
        json={"name": "n8n proof", "role": "producer", "expires_in_s": 86_400},
        headers={"Authorization": f"Bearer {target.api_key}"},
        trust_env=False,
    )
    key: str = answer.raise_for_status().json()["key"]
    return key


def jobs(target: Target, *, tag: str) -> list[dict[str, Any]]:
    """Every job that carries `tag`, page by page."""
    found: list[dict[str, Any]] = []
    headers = {"Authorization": f"Bearer {target.api_key}"}
    query: dict[str, str | int] = {"tag": tag, "limit": PAGE}
    with httpx.Client(base_url=target.gateway_url, headers=headers, trust_env=False) as client:
        while True:
            page = client.get("/api/v1/jobs", params=query).raise_for_status().json()
            found += page["jobs"]
            if page["next"] is None:
                return found
            query["before"] = page["next"]


def inbox_counts(target: Target, *, domain: str) -> dict[str, int]:
    """The inbox's counts of one recipient domain."""
    url = f"{target.inbox_url}/stats"
    answer = httpx.get(url, params={"recipient_domain": domain}, trust_env=False)
    counts: dict[str, int] = answer.raise_for_status().json()
    return counts


def recipients(target: Target, *, domain: str) -> set[str]:
    """Who got mail in one recipient domain."""
    query: dict[str, str | int] = {"recipient_domain": domain, "limit": 10_000}
    answer = httpx.get(f"{target.inbox_url}/messages", params=query, trust_env=False)
    return {mail["recipient"] for mail in answer.raise_for_status().json()["messages"]}


def is_signed(passed: Passed, *, secret: str) -> bool:
    """Whether a callback carries a Standard Webhooks signature over exactly its bytes."""
    headers = passed.headers
    signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode()
    for one in secret.split():
        key = base64.b64decode(one.removeprefix(_SECRET_PREFIX))
        digest = hmac.digest(key, signed + passed.body, "sha256")
        expected = "v1," + base64.b64encode(digest).decode()
        if any(
            hmac.compare_digest(expected, given)
            for given in headers.get("webhook-signature", "").split()
        ):
            return True
    return False
