"""Stacks of this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack import stand as stands
from tests.stack.stand import Stand


@pytest.fixture
def stand() -> Iterator[Stand]:
    with stands.stand() as made:
        yield made
