"""Whose request it is must be clear: one Host, and no foreign one where local callers are trusted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.gateway.process import Gateway


async def status_of(gateway: Gateway, head: str) -> int:
    port = gateway.settings.gateway_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}\r\n".encode())
        line = await reader.readuntil(b"\r\n")
    finally:
        writer.close()
    return int(line.split()[1])


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ("GET /metrics HTTP/1.1\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 400),
        ("GET /metrics HTTP/1.0\r\nHost: localhost\r\nhost: localhost\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n", 401),
        ("GET /metrics HTTP/1.0\r\n", 401),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET /health/live HTTP/1.0\r\n", 200),
        ("GET /health/live HTTP/1.1\r\nHost: any.example\r\n", 200),
    ],
)
async def test_a_request_has_one_host(gateway: Gateway, head: str, wanted: int) -> None:
    assert await status_of(gateway, head) == wanted
