"""Fixtures that every test may use: a database of its own, Redis, settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ledger import database as ledger_database
from runtime.settings import Settings
from tests import services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

_STARTED = pytest.StashKey[services.Services]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the services once, in the controlling process; workers inherit the addresses."""
    is_controller = not hasattr(config, "workerinput")
    if is_controller and not config.option.collectonly and not config.option.help:
        for name in [name for name in os.environ if name.startswith(("RELAIS_", "OTEL_"))]:
            del os.environ[name]
        config.stash[_STARTED] = services.start()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what this process started."""
    started = config.stash.get(_STARTED, None)
    if started is not None:
        started.stop()


@pytest.fixture
def database_url() -> Iterator[str]:
    """A migrated Postgres database for this test alone."""
    with services.fresh_database() as url:
        yield url


@pytest.fixture
def redis_url() -> str:
    """The shared Redis; use keys or a database of your own where it matters."""
    return os.environ[services.REDIS_VARIABLE]


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
