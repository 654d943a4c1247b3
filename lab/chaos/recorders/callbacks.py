"""`python -m lab.chaos.recorders.callbacks JOURNAL PORTS`: takes callbacks and remembers them.

Whatever reaches `/inward` came through a redirect that nobody may follow.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from lab.chaos.journal import Journal
from lab.chaos.recorders import behaviour
from lab.chaos.recorders.behaviour import Behaviour

READ_WITHIN_S = 30.0


class Receiver:
    """All requests of one recorder; one a connection."""

    def __init__(self, journal: Journal, mood: Behaviour) -> None:
        self._journal = journal
        self._mood = mood
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        try:
            async with asyncio.timeout(READ_WITHIN_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
                headers = {name.lower(): value for name, value in fields.items()}
                await reader.readexactly(int(headers.get("content-length", "0")))
            await self._answer(lines[0].split(" ")[1], headers, writer)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            self._journal.note("broken")
        finally:
            writer.close()

    async def _answer(
        self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> None:
        name, webhook_id = path.rpartition("/")[2], headers.get("webhook-id", "")
        if path.startswith("/inward"):
            self._journal.note("inward", path=path)
        words = "200 OK"
        extra = ""
        if self._mood.strikes("500"):
            words = "500 Broken"
        elif self._mood.strikes("redirect"):
            words = "302 Elsewhere"
            extra = f"location: http://127.0.0.1:{self.port}/inward/{name}\r\n"
        hangs = self._mood.strikes("hang")
        self._journal.note(
            "called",
            name=name,
            webhook_id=webhook_id,
            status=0 if hangs else int(words[:3]),
            is_signed="webhook-signature" in headers,
        )
        if hangs:
            await asyncio.sleep(self._mood.seconds)
            return
        answer = f"HTTP/1.1 {words}\r\n{extra}content-length: 0\r\nconnection: close\r\n\r\n"
        writer.write(answer.encode())
        await writer.drain()


async def main(journal: Path, ports: Path) -> None:
    """Serve until killed; `ports` gets {"port": n, "control": n}."""
    mood = Behaviour()
    receiver = Receiver(Journal(journal), mood)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    control = await behaviour.serve(mood)
    names = {"port": server, "control": control}
    numbers = {name: one.sockets[0].getsockname()[1] for name, one in names.items()}
    receiver.port = numbers["port"]
    draft = ports.with_suffix(".draft")
    draft.write_text(json.dumps(numbers))
    draft.rename(ports)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
