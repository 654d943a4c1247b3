"""A proxy before the test's Postgres, and what can be done to one connection through it."""

from __future__ import annotations

import re
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from lab.chaos.proxy import Link, Proxy, Trap
from runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANYTHING = re.compile(rb"(?s).")
PRESENCE = re.compile(b"relais presence")  # the name that the connection signs on with


@asynccontextmanager
async def proxied(settings: Settings) -> AsyncIterator[tuple[Proxy, Settings]]:
    """The proxy, and settings that lead through it."""
    url = make_url(settings.require_database_url())
    proxy = Proxy(url.port or 5432)
    await proxy.start()
    through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    secret = Settings.model_validate({"database_url": through}).database_url
    try:
        yield proxy, settings.model_copy(update={"database_url": secret})
    finally:
        await proxy.stop()


def half_open(proxy: Proxy, link: Link) -> None:
    """From now on neither side hears of the other any more, not even of its end."""
    for writer in (link.up, link.down):
        writer.can_write_eof = lambda: False  # type: ignore[method-assign]
    for way in ("up", "down"):
        trap = Trap(way, ANYTHING, "drop", times=sys.maxsize, concerns=lambda one: one is link)
        proxy.traps.append(trap)
