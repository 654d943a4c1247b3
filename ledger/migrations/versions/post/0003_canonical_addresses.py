"""Once more, for what the release before wrote meanwhile in the old form.

Revision ID: post_0003
"""

from __future__ import annotations

from ledger.migrations.steps import without_transaction
from ledger.migrations.suppressed import into_canonical_form

revision = "post_0003"
down_revision = "post_0002"
branch_labels = None
depends_on = "pre_0003"


def upgrade() -> None:
    """Run once no process of the release before is left."""
    with without_transaction() as driver:
        into_canonical_form(driver)
