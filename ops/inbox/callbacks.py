"""HTTP requests posted to `/callbacks/{name}`: kept as they came, so that a test can judge them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from ops.inbox.journal import Journal, Line


class Callbacks:
    """Everything posted, by name; durable before it is answered."""

    def __init__(self, data_dir: Path) -> None:
        """Open or make `callbacks.jsonl` and read its index back."""
        self._journal = Journal(data_dir / "callbacks.jsonl")
        self._lines: dict[str, list[Line]] = {}
        for line, data in self._journal.lines():
            self._lines.setdefault(from_json(data)["name"], []).append(line)

    async def keep(self, name: str, *, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Store one request; `headers` keep their order, names are lower case."""
        record = {
            "name": name,
            "received_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "headers": headers,
            "body": _text(body),
            "body_base64": b64encode(body).decode(),
        }

        def durable(lines: Sequence[Line]) -> None:
            self._lines.setdefault(name, []).extend(lines)

        await self._journal.append([to_json(record) + b"\n"], durable=durable)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The requests posted under `name`, oldest first."""
        return [from_json(self._journal.read(line)) for line in self._lines.get(name, [])]

    async def close(self) -> None:
        """Write what is waiting and let go of the file."""
        await self._journal.close()


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
