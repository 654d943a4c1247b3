"""The ledger: jobs and their history, messages, access, schedules, workers.

Revision ID: pre_0001
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "pre_0001"
down_revision = None
branch_labels = ("pre",)
depends_on = None


def upgrade() -> None:
    """Run the SQL beside this file; by psycopg itself, which leaves a lone % alone."""
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    driver = op.get_bind().connection.driver_connection
    if driver is None:
        message = "the migration has no connection"
        raise RuntimeError(message)
    driver.execute(statements)
