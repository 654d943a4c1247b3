"""Suppressed addresses are compared by their canonical form: the rows that are there get it.

Revision ID: pre_0003
"""

from __future__ import annotations

from ledger.migrations.steps import without_transaction
from ledger.migrations.suppressed import into_canonical_form

revision = "pre_0003"
down_revision = "pre_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The release before looks addresses up in a form that this one keeps."""
    with without_transaction() as driver:
        into_canonical_form(driver)
