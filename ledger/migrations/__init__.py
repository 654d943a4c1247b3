"""Alembic environment: two branches, `pre` and `post`."""
