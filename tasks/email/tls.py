"""TLS for relays."""

from __future__ import annotations

import ssl
from functools import lru_cache


@lru_cache(maxsize=32)
def client_context(verify: bool, ca: str) -> ssl.SSLContext:  # noqa: FBT001 - a cache key
    """TLS as a client; `ca` is a file with certificates to trust beside the system's."""
    context = ssl.create_default_context()
    if ca:
        context.load_verify_locations(ca)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
