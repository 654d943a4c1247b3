"""Stacks of this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack import cluster as stands
from tests.stack.cluster import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with stands.cluster() as made:
        yield made
