"""Takes away what only the release before had: its columns, indexes and triggers.

Revision ID: post_0002
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import op

from ledger.migrations.steps import briefly, drop_indexes

revision = "post_0002"
down_revision = "post_0001"
branch_labels = None
depends_on = "pre_0002"


def upgrade() -> None:
    """Run once no process of the release before is left."""
    with op.get_context().autocommit_block():
        driver: Any = op.get_bind().connection.driver_connection
        briefly(driver, Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
        drop_indexes(
            driver, "ix_jobs_claim", "ix_jobs_due", "ix_jobs_owner", "ix_messages_message_id"
        )
