"""What a recorder shall do wrong for now, told over a control port, one JSON object a line."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json


@dataclass
class Behaviour:
    """`mode` "" is well; in another mode, each case goes wrong with the probability `share`."""

    mode: str = ""
    share: float = 1.0
    seconds: float = 0.0
    hits: int = 0
    rng: random.Random = field(default_factory=random.Random)

    def strikes(self, *modes: str) -> bool:
        """Whether it is in one of `modes` and this case is one that goes wrong."""
        if self.mode not in modes or self.rng.random() >= self.share:
            return False
        self.hits += 1
        return True

    def change(self, order: dict[str, Any]) -> dict[str, Any]:
        """Take an order; how often the old mode struck."""
        report = {"mode": self.mode, "hits": self.hits}
        self.mode = order.get("mode", "")
        self.share = order.get("share", 1.0)
        self.seconds = order.get("seconds", 0.0)
        self.hits = 0
        return report


async def serve(behaviour: Behaviour) -> asyncio.Server:
    """Listen for orders on a free port of 127.0.0.1."""

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(to_json(behaviour.change(from_json(line))) + b"\n")
            await writer.drain()
        writer.close()

    return await asyncio.start_server(obey, "127.0.0.1", 0)


async def order(port: int, mode: str = "", **fields: float) -> dict[str, Any]:
    """Tell the recorder behind control port `port`; what the mode before had done."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(to_json({"mode": mode, **fields}) + b"\n")
        report: dict[str, Any] = from_json(await reader.readline())
    finally:
        writer.close()
    return report
