"""`python -m ops.stack.admin_key`: the key with which the command line speaks to the gateway.

Idempotent. The key is kept before the ledger learns it: a crash in between
leaves a key that the next run completes, never one that nobody has.
"""

from __future__ import annotations

import asyncio
import sys

from ledger import api_keys, database
from ops.stack import layout, secrets
from runtime import settings
from runtime.errors import RelaisError

TENANT = "default"
NAME = "local stack"
SECRET = "admin_key"  # noqa: S105 - the name of one


async def ensure() -> None:
    """Make the key, or put the known one back into a database that does not have it."""
    secrets_file = layout.find().secrets
    engine = database.engine(settings.load(), pool_size=1, name="relais-admin-key")
    try:
        async with engine.begin() as connection:
            key = secrets.read(secrets_file).get(SECRET)
            known = await api_keys.find(connection, api_keys.fingerprint(key)) if key else None
            if known is not None and known.revoked_at is None and not known.is_expired:
                return
            if key is None or known is not None:
                key = api_keys.mint()
                secrets.keep(secrets_file, name=SECRET, value=key)
            await api_keys.create(connection, tenant=TENANT, name=NAME, role="admin", key=key)
    finally:
        await engine.dispose()


def main() -> int:
    """0 when the key is there; 1 with a sentence where Postgres refuses."""
    try:
        asyncio.run(ensure())
    except RelaisError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
