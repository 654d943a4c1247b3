"""A private stand per test: these tests kill its services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.bench.cluster import Cluster, cluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def here() -> Iterator[Cluster]:
    """Postgres, Redis and room for processes, ours to break."""
    with cluster() as made:
        yield made
