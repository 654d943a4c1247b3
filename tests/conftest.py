"""Fixtures that every test may use: a database of its own, Redis, settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger import database as ledger_database
from runtime.settings import Settings
from tests import services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

_FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the services, which start when a test asks; xdist's workers inherit where."""
    if not hasattr(config, "workerinput"):
        for name in list(os.environ):
            is_for_tests = name.startswith("RELAIS_TEST_")  # RELAIS_TEST_N8N, for one
            if name.startswith(("RELAIS_", "OTEL_")) and not is_for_tests:
                del os.environ[name]
        config.stash[_FOLDER] = services.prepare()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the services of this run."""
    folder = config.stash.get(_FOLDER, None)
    if folder is not None:
        services.stop(folder)


@pytest.fixture
def database_url() -> Iterator[str]:
    """A migrated Postgres database for this test alone."""
    with services.fresh_database() as url:
        yield url


@pytest.fixture
def redis_url() -> str:
    """The shared Redis; use keys or a database of your own where it matters."""
    return services.redis_url()


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings that point at this test's services."""
    return Settings.model_validate(
        {"database_url": database_url, "redis_url": redis_url, "data_dir": tmp_path}
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine on this test's database."""
    engine = ledger_database.engine(settings)
    yield engine
    await engine.dispose()
