"""What the processes under test are told: their services behind the proxies, and short waits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.chaos.cluster import Cluster

LEASE_S = 10.0
DOT_TIMEOUT_S = 5.0
SILENCE_S = 30.0  # how long the second relay may say nothing: as long as a callback's receiver may
SECOND_HOST = "127.0.0.2"  # another host than the first, as far as anybody can tell
HISTORY_VARIABLE = "CHAOS_HISTORY"  # the folder in which the kinds of the harness write


def of(cluster: Cluster) -> dict[str, str]:
    """The settings by name, without their prefix."""
    database = cluster.postgres.url.replace(
        f":{cluster.postgres.port}/", f":{cluster.postgres_proxy.port}/"
    )
    redis = cluster.valkey.url.replace(f":{cluster.valkey.port}/", f":{cluster.redis_proxy.port}/")
    relay = _relay(cluster.smtp_proxy.port, greeting_s=5)
    second = _relay(cluster.second_smtp_proxy.port, greeting_s=SILENCE_S)
    header = "idempotency_header&idempotency_header=X-Idempotency&idempotency_window_s=3600"
    return {
        # Not encrypted: the proxy must be able to read what it waits for.
        "DATABASE_URL": f"{database}?sslmode=disable&gssencmode=disable",
        "REDIS_URL": redis,
        "SMTP_URL": f"smtp://{relay}at_least_once",
        "RELAYS": json.dumps(
            {
                "once": f"smtp://{relay}at_most_once",
                "header": f"smtp://{relay}{header}",
                "members": f"smtp://member:secret@{relay}at_least_once",
                "second": f"smtp://{second}at_least_once",
            }
        ),
        "CALLBACK_SECRET": cluster.callback_secret,
        "OUTBOUND_ALLOW": (
            f"127.0.0.1:{cluster.callback_proxy.port},"
            f"{SECOND_HOST}:{cluster.second_callback_proxy.port}"
        ),
        "DATA_DIR": str(cluster.folder),
        "KINDS": "lab.chaos.kinds",
        "LEASE_S": f"{LEASE_S:g}",
        "GRACE_S": "8",
        "CONCURRENCY_CRITICAL": "8",
        "CONCURRENCY_TEMPLATE": "8",
        "CONCURRENCY_BULK": "8",
        "CONCURRENCY_CALLBACK": "16",
    }


def _relay(port: int, *, greeting_s: float) -> str:
    return (
        f"127.0.0.1:{port}?dot_timeout_s={DOT_TIMEOUT_S:g}&connect_timeout_s=3"
        f"&greeting_timeout_s={greeting_s:g}&command_timeout_s=5&data_timeout_s=5"
        "&block_timeout_s=5&greylist_s=2&backoff_s=0.5&backoff_cap_s=2&policy="
    )
