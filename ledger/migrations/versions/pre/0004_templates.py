"""Stored templates, their versions, default values of variables; a job notes what it was made from.

Revision ID: pre_0004
"""

from __future__ import annotations

from pathlib import Path

from ledger.migrations.steps import briefly, without_transaction

revision = "pre_0004"
down_revision = "pre_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The release before knows none of it, and is not in its way."""
    with without_transaction() as driver:
        briefly(driver, Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
