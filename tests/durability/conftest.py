"""A private stand per test: these tests kill its services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops.bench.stand import Stand, stand

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def here() -> Iterator[Stand]:
    """Postgres, Redis and room for processes, ours to break."""
    with stand() as made:
        yield made
