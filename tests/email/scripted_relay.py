"""A real SMTP server on 127.0.0.1 that does what a test tells it to, also the unheard of.

    async with ScriptedRelay() as relay:
        relay.next("RCPT", "451 4.7.1 greylisted")     # once
        relay.always("DOT", DROP)                      # from now on
        await relay.reached("DATA")

Steps: CONNECT, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, BODY (its first line came; usually
nothing is said), DOT, RSET, QUIT.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine


@dataclass(frozen=True)
class Act:
    """Something else than a plain reply."""

    reply: str = ""
    takes: bool = False  # DOT: keep the mail before anything else
    gate: asyncio.Event | None = None  # wait for this first
    byte_s: float = 0.0  # seconds between two bytes
    closes: bool = False
    then: Act | None = None  # said behind it, when its own gate opens, whatever comes meanwhile


DROP = Act(closes=True)
TAKE_AND_DROP = Act(takes=True, closes=True)


@dataclass
class Received:
    sender: str
    recipient: str
    data: bytes
    options: str


@dataclass
class ScriptedRelay:
    pipelining: bool = True
    smtputf8: bool = True
    size_max: int = 0
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    logins: dict[str, str] = field(default_factory=dict)
    auth: str = "PLAIN LOGIN"
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        self.mails: list[Received] = []
        self.unfinished: list[bytes] = []
        self.commands: list[str] = []
        self.connections = 0
        self.open = 0
        self._once: defaultdict[str, deque[str | Act]] = defaultdict(deque)
        self._always: dict[str, str | Act] = {}
        self._seen: defaultdict[str, int] = defaultdict(int)
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def next(self, step: str, *answers: str | Act) -> None:
        self._once[step].extend(answers)

    def always(self, step: str, answer: str | Act) -> None:
        self._always[step] = answer

    def behave(self) -> None:
        self._once.clear()
        self._always.clear()

    async def reached(self, step: str, count: int = 1) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: self._seen[step] >= count)

    def url(self, *, login: str = "", **options: object) -> str:
        scheme = "smtp"
        if self.tls:
            scheme = "smtps" if self.implicit_tls else "smtp+starttls"
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}://{login and login + '@'}{self.host}:{self.port}" + (
            query and f"?{query}"
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, self.host, self.port, limit=2**26,
            ssl=self.tls if self.implicit_tls else None,
        )  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await _Conversation(self, reader, writer).run()
        except asyncio.CancelledError:
            pass
        finally:
            self.open -= 1
            writer.transport.abort()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, step: str, usual: str) -> str | Act:
        async with self._news:
            self._seen[step] += 1
            self._news.notify_all()
        if self._once[step]:
            return self._once[step].popleft()
        return self._always.get(step, usual)


class _Closed(ConnectionError):  # noqa: N818 - control flow of a test server
    pass


class _Conversation:
    def __init__(
        self, relay: ScriptedRelay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.relay, self.reader, self.writer = relay, reader, writer
        self.sender: str | None = None
        self.recipient: str | None = None
        self.options = ""

    async def run(self) -> None:
        await self.say("CONNECT", "220 scripted ESMTP")
        while line := (await self.reader.readline()).decode():
            assert line.endswith("\r\n"), line
            self.relay.commands.append(line[:-2])
            verb = line.split(maxsplit=1)[0].strip().upper()
            await getattr(self, f"do_{verb.lower()}")(line[:-2])

    async def say(self, step: str, usual: str) -> str:
        answer = await self.relay._answer(step, usual)
        act = answer if isinstance(answer, Act) else Act(answer)
        if act.takes:
            self.keep()
        if act.gate is not None:
            await act.gate.wait()
        if act.reply:
            data = act.reply.replace("\n", "\r\n").encode() + b"\r\n"
            for piece in [bytes([b]) for b in data] if act.byte_s else [data]:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(act.byte_s)
        if act.closes:
            self.writer.close()
            raise _Closed
        if act.then is not None:
            self.relay._spawn(self.say_later(act.then))
        return act.reply

    async def say_later(self, act: Act) -> None:
        assert act.gate is not None
        await act.gate.wait()
        self.writer.write(act.reply.encode() + b"\r\n")

    def keep(self) -> None:
        assert self.sender is not None
        assert self.recipient is not None
        self.relay.mails.append(Received(self.sender, self.recipient, self.data, self.options))

    async def do_ehlo(self, _: str) -> None:
        words = ["scripted", "8BITMIME", "ENHANCEDSTATUSCODES"]
        words += ["PIPELINING"] * self.relay.pipelining + ["SMTPUTF8"] * self.relay.smtputf8
        words += [f"SIZE {self.relay.size_max}"] * bool(self.relay.size_max)
        if self.relay.tls and not self.writer.get_extra_info("sslcontext"):
            words.append("STARTTLS")
        elif self.relay.logins:
            words.append(f"AUTH {self.relay.auth}")
        lines = [f"250-{word}" for word in words[:-1]] + [f"250 {words[-1]}"]
        await self.say("EHLO", "\n".join(lines))

    async def do_helo(self, _: str) -> None:
        await self.say("HELO", "250 scripted")

    async def do_starttls(self, _: str) -> None:
        if (await self.say("STARTTLS", "220 2.0.0 Go ahead")).startswith("220"):
            assert self.relay.tls
            await self.writer.start_tls(self.relay.tls)

    async def do_auth(self, line: str) -> None:
        _, mechanism, *words = line.split()
        if mechanism == "PLAIN":
            _, user, password = base64.b64decode(words[0]).decode().split("\0")
        else:
            answers = []
            for prompt in (b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n"):
                self.writer.write(prompt)
                answers.append(base64.b64decode(await self.reader.readline()).decode())
            user, password = answers
        right = self.relay.logins.get(user) == password
        await self.say("AUTH", "235 2.7.0 OK" if right else "535 5.7.8 Bad credentials")

    async def do_mail(self, line: str) -> None:
        match = re.fullmatch(r"MAIL FROM:<([^>]*)>(.*)", line)
        assert match
        reply = await self.say("MAIL", "503 5.5.1 nested" if self.sender else "250 2.1.0 OK")
        if reply.startswith("250"):
            self.sender, self.options = match[1], match[2]

    async def do_rcpt(self, line: str) -> None:
        match = re.fullmatch(r"RCPT TO:<([^>]*)>(.*)", line)
        assert match
        reply = await self.say("RCPT", "250 2.1.5 OK" if self.sender else "503 5.5.1 MAIL first")
        if reply.startswith("250"):
            self.recipient = match[1]

    async def do_data(self, _: str) -> None:
        ready = "354 Go" if self.recipient else "554 5.5.1 No valid recipients"
        if not (await self.say("DATA", ready)).startswith("354"):
            return
        body = bytearray()
        try:
            while (line := await self.reader.readuntil(b"\n")) != b".\r\n":
                assert line.endswith(b"\r\n")
                if not body:
                    await self.say("BODY", "")
                body += line[1:] if line.startswith(b".") else line
        except asyncio.IncompleteReadError as error:
            self.relay.unfinished.append(bytes(body + error.partial))
            raise
        self.data = bytes(body)
        reply = await self.say("DOT", "250 2.0.0 Taken")
        if reply.startswith("250"):
            self.keep()
        self.sender = self.recipient = None

    async def do_rset(self, _: str) -> None:
        self.sender = self.recipient = None
        await self.say("RSET", "250 2.0.0 OK")

    async def do_quit(self, _: str) -> None:
        await self.say("QUIT", "221 2.0.0 Bye")
        raise _Closed
