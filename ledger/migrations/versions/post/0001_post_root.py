"""Root of the branch `post`: what runs after the old code is gone. Nothing so far.

Revision ID: post_0001
"""

from __future__ import annotations

revision = "post_0001"
down_revision = None
branch_labels = ("post",)
depends_on = "pre_0001"


def upgrade() -> None:
    """Nothing to take away yet."""
