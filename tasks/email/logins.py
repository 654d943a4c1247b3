"""Relays that refused a login which has changed since.

The emails of a stopped relay wait in their paused lane, so none of them would notice that its
password has been corrected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import relay_states
from runtime import logs
from runtime.errors import SettingsError
from tasks.email import relays

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

log = logs.logger("email")


async def resume_changed(database: AsyncEngine, settings: Settings) -> int:
    """Resume every stopped relay whose login has changed since; returns how many."""
    async with database.connect() as connection:
        stopped = await relay_states.stopped(connection)
    resumed = 0
    for relay in stopped:
        try:
            login = relays.find(settings, relay.name).login
        except SettingsError:
            continue  # removed from the settings: there is nothing to send through
        if login == relay.login:
            continue
        async with database.begin() as connection:
            is_resumed = await relay_states.resume_with_new_login(
                connection, tenant=relay.tenant, name=relay.name, login=login
            )
        if is_resumed:
            resumed += 1
            log.info("relay.resumed", relay=relay.name, tenant=relay.tenant, by="new login")
    return resumed
