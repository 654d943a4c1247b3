"""`python -m lab.chaos.recorders.smtp JOURNAL PORTS`: a relay that remembers and misbehaves.

Recipients choose their own fate in good times too: `once451.*` is put off once, `refused.*` is
refused for good. Mail with an `X-Idempotency` header is taken once per value and recipient, as
providers with that promise do.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

from lab.chaos.journal import Journal
from lab.chaos.recorders import behaviour
from lab.chaos.recorders.behaviour import Behaviour

ADDRESS = re.compile(rb"<([^<>]*)>")
HEADER = re.compile(rb"^(message-id|x-idempotency):[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
ABANDONED_S = 60.0
EHLO = b"250-recorder\r\n250-PIPELINING\r\n250-SIZE 10000000\r\n250 AUTH PLAIN LOGIN\r\n"


class Relay:
    """All connections of one recorder."""

    def __init__(self, journal: Journal, mood: Behaviour) -> None:
        self.journal = journal
        self.mood = mood
        self.connections = 0
        self._put_off: set[str] = set()
        self._greylisted: set[str] = set()
        self._taken: set[tuple[str, str]] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from greeting to the end."""
        self.connections += 1
        conversation = _Conversation(self, self.connections, reader, writer)
        try:
            await conversation.run()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            self.journal.note("broken", connection=conversation.number)
        finally:
            writer.transport.abort()

    def judge(self, recipient: str) -> bytes:
        """The answer to RCPT."""
        name = recipient.partition("@")[0]
        if name.startswith("refused.") or self.mood.strikes("550"):
            self.journal.note("refused", rcpt=recipient)
            return b"550 5.7.1 not wanted here\r\n"
        if name.startswith("once451.") and recipient not in self._put_off:
            self._put_off.add(recipient)
            return b"451 4.3.0 come again\r\n"
        if recipient not in self._greylisted and self.mood.strikes("450"):
            self._greylisted.add(recipient)
            return b"450 4.7.1 greylisted\r\n"
        return b"250 2.1.5 fine\r\n"

    def take(self, recipient: str, content: bytes, connection: int) -> None:
        """Write down that the message is ours; a repeat of an idempotent one changes nothing."""
        found = {name.lower().decode(): value.decode() for name, value in HEADER.findall(content)}
        key = found.get("x-idempotency")
        if key is not None and (key, recipient) in self._taken:
            self.journal.note("deduplicated", rcpt=recipient, key=key)
            return
        if key is not None:
            self._taken.add((key, recipient))
        self.journal.note(
            "delivered", rcpt=recipient, message_id=found.get("message-id"), connection=connection
        )


class _Conversation:
    def __init__(
        self,
        relay: Relay,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.relay = relay
        self.number = number
        self._reader = reader
        self._writer = writer
        self._recipients: list[str] = []

    async def run(self) -> None:
        mood = self.relay.mood
        if mood.strikes("421"):
            await self._say(b"421 4.3.2 busy\r\n")
            return
        await self._say(b"220 recorder\r\n")
        while line := await self._line():
            verb = line[:4].upper()
            if verb == b"QUIT":
                await self._say(b"221 2.0.0 bye\r\n")
                return
            if verb == b"DATA":
                if not await self._data():
                    return
            else:
                await self._say(self._answer(verb, line))

    async def _line(self) -> bytes:
        async with asyncio.timeout(ABANDONED_S):
            return await self._reader.readline()

    def _answer(self, verb: bytes, line: bytes) -> bytes:
        match verb:
            case b"EHLO":
                return EHLO
            case b"AUTH" if self.relay.mood.strikes("535"):
                return b"535 5.7.8 who are you\r\n"
            case b"AUTH":
                return b"235 2.7.0 welcome\r\n"
            case b"MAIL":
                self._recipients.clear()
                return b"250 2.1.0 fine\r\n"
            case b"RCPT":
                found = ADDRESS.search(line)
                recipient = found[1].decode() if found else ""
                answer = self.relay.judge(recipient)
                if answer.startswith(b"250"):
                    self._recipients.append(recipient)
                return answer
            case _:
                self._recipients.clear()
                return b"250 2.0.0 fine\r\n"

    async def _data(self) -> bool:
        """Take the message; whether the conversation goes on."""
        if not self._recipients:
            await self._say(b"503 5.5.1 nobody to send it to\r\n")
            return True
        await self._say(b"354 go on\r\n")
        lines: list[bytes] = []
        while (line := await self._line()) != b".\r\n":
            if not line:
                return False
            lines.append(line)
        mood = self.relay.mood
        if mood.strikes("451"):
            await self._say(b"451 4.3.0 not now\r\n")
            return True
        if mood.strikes("drop before taking"):
            self.relay.journal.note("dropped", rcpt=self._recipients[0])
            return False
        for recipient in self._recipients:
            self.relay.take(recipient, b"".join(lines), self.number)
        self._recipients.clear()
        if mood.strikes("drop after taking"):
            return False
        if mood.strikes("late"):
            await asyncio.sleep(mood.seconds)
        await self._say(b"250 2.0.0 queued\r\n")
        return True

    async def _say(self, words: bytes) -> None:
        if self.relay.mood.strikes("crawl"):
            for byte in words:
                self._writer.write(bytes([byte]))
                await self._writer.drain()
                await asyncio.sleep(self.relay.mood.seconds)
            return
        self._writer.write(words)
        await self._writer.drain()


async def main(journal: Path, ports: Path) -> None:
    """Serve until killed; `ports` gets {"port": n, "control": n}."""
    mood = Behaviour()
    relay = Relay(Journal(journal), mood)
    server = await asyncio.start_server(relay.talk, "127.0.0.1", 0, limit=1 << 20)
    control = await behaviour.serve(mood)
    names = {"port": server, "control": control}
    numbers = {name: one.sockets[0].getsockname()[1] for name, one in names.items()}
    draft = ports.with_suffix(".draft")
    draft.write_text(json.dumps(numbers))
    draft.rename(ports)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
