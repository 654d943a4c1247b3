"""One gateway a module, on a database of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.gateway.process import Gateway, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    """Further RELAIS_ variables of this module's gateway."""
    return {}


@pytest.fixture(scope="module")
def gateway(
    gateway_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A running gateway."""
    with services.fresh_database() as url:
        made = Gateway(
            settings_for(
                database_url=url,
                redis_url=services.redis_url(),
                data_dir=tmp_path_factory.mktemp("gateway"),
            ),
            extra=gateway_settings,
        )
        made.make_keys()
        made.start()
        try:
            yield made
        finally:
            made.stop()
        broken = [line for line in made.log.read_text().splitlines() if "request.failed" in line]
        assert not broken, broken[0]


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin's key."""
    async with gateway.async_client(timeout=30) as client:
        yield client


@pytest.fixture
async def ledger(gateway: Gateway) -> AsyncIterator[AsyncEngine]:
    """The gateway's database."""
    engine = gateway.engine()
    yield engine
    await engine.dispose()
