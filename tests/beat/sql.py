"""Statements that tests of beat run by themselves."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


async def run(database: AsyncEngine, *statements: str) -> None:
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def scalar(database: AsyncEngine, statement: str, **values: Any) -> Any:
    async with database.connect() as connection:
        return (await connection.execute(text(statement), values)).scalar_one()
