"""What jobs may depend on, as used in the names of lanes: a relay, a host.

Pure and cheap: intake calls this for every job. The kinds say which of them applies
(`tasks.kinds.lane_of`); callbacks, which the ledger creates itself, depend on their host.
"""

from __future__ import annotations

from urllib.parse import urlsplit

HOST_MAX = 128


def on_relay(name: str) -> str:
    """A relay, by the name that payloads choose it by."""
    return f"relay:{name}"


def on_host(url: str) -> str | None:
    """The host of `url`, with its port where one is given; None where it cannot be read."""
    try:
        authority = urlsplit(url).netloc
    except ValueError:
        return None
    host = authority.rpartition("@")[2].lower()
    return f"host:{host[:HOST_MAX]}" if host else None
