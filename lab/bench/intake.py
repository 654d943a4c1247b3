"""`bench intake`: single jobs over HTTP, each answered 202 after its commit.

The peer is Celery's own `apply_async` in a loop, straight into Redis, without HTTP, without a
check and without durability.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from lab.bench import celery_peer
from lab.bench.client import Load, post_many
from lab.bench.cluster import cluster

if TYPE_CHECKING:
    from lab.bench import Options
    from lab.bench.progress import Say

REQUESTS = 10_000
CONNECTIONS = 16
WARM_UP = 500
MAIL = {
    "kind": "email.send",
    "payload": {
        "from": "Relais <hello@example.org>",
        "to": ["anna@example.org"],
        "subject": "Your invoice",
        "text": "Dear Anna,\n\nthe invoice is attached to your account.\n",
    },
    "run_at": "2100-01-01T00:00:00Z",
}


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Answers per second and their latency, beside the peer's."""
    body = json.dumps(MAIL).encode()
    with cluster() as here:
        key = here.make_key()
        with here.gateway(processes=options.gateways):

            def post(requests: int) -> Load:
                return asyncio.run(
                    post_many(
                        port=here.gateway_port,
                        key=key,
                        body=body,
                        requests=requests,
                        connections=CONNECTIONS,
                    )
                )

            say(f"{REQUESTS:,} POSTs over {CONNECTIONS} connections")
            post(WARM_UP)
            load = post(REQUESTS)
        say(f"Celery's apply_async, {REQUESTS:,} times")
        celery_peer.use(here.peer_redis_url)
        celery_peer.enqueue(WARM_UP)
        started = time.monotonic()
        celery_peer.enqueue(REQUESTS)
        peer_per_s = round(REQUESTS / (time.monotonic() - started))
    return {
        "name": "intake",
        "ours_per_s": load.per_s,
        "per_s": load.per_s,
        "p50_ms": load.percentile_ms(0.50),
        "p99_ms": load.percentile_ms(0.99),
        "refused": load.refused,
        "peer": "celery apply_async",
        "peer_per_s": peer_per_s,
        "ratio": round(load.per_s / peer_per_s, 2),
        "connections": CONNECTIONS,
        "gateways": options.gateways,
    }
