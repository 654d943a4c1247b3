"""Suppressed addresses into their canonical form, beside code that still writes the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.addresses import canonical

if TYPE_CHECKING:
    from psycopg import Connection

SLICE = 1_000
# The old form was only in lower case: what has another canonical form is not ASCII, is an A-label
# perhaps, or ends with a dot.
OLD = """
SELECT tenant, address FROM relais.suppressions
WHERE (tenant, address) > (%s, %s)
  AND (octet_length(address) <> char_length(address) OR address LIKE '%%xn--%%'
       OR address LIKE '%%.')
ORDER BY tenant, address LIMIT %s
"""
KEEP = """
INSERT INTO relais.suppressions (tenant, address, reason, created_at)
SELECT tenant, %s, reason, created_at FROM relais.suppressions WHERE tenant = %s AND address = %s
ON CONFLICT (tenant, address) DO NOTHING
"""
DROP = "DELETE FROM relais.suppressions WHERE tenant = %s AND address = %s"


def into_canonical_form(driver: Connection[Any]) -> None:
    """Each row in a transaction of its own: nobody's lookup misses it, nobody waits for long."""
    last = ("", "")
    while rows := driver.execute(OLD, (*last, SLICE)).fetchall():
        for tenant, address in rows:
            form = canonical(address)
            if form != address:
                with driver.transaction():
                    driver.execute(KEEP, (form, tenant, address))
                    driver.execute(DROP, (tenant, address))
        last = tuple(rows[-1])
