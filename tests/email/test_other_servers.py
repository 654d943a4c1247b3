"""Servers that others wrote take what we send: aiosmtpd always, Postfix's smtp-sink where it is."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller

from ledger import ids
from tasks.email import pool
from tasks.outcomes import Failed, Succeeded
from tests.waiting import wait_for

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope, Session

    from tests.email.conftest import Jobs


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _: SMTP, __: Session, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        if address.startswith("refuse"):
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:  # noqa: N802
        self.mails.append((envelope.rcpt_tos, envelope.content))  # type: ignore[arg-type]
        return "250 2.0.0 Kept"


async def test_aiosmtpd(jobs: Jobs) -> None:
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=_free_port(), enable_SMTPUTF8=True)
    await asyncio.to_thread(controller.start)
    try:
        jobs.smtp_url = f"smtp://127.0.0.1:{controller.port}?connections=2"
        text = "Grüße\n.\n..dots\n" + "x" * 3000
        mail: dict[str, Any] = {"to": ["pelé@exämple.org", "ada@x.org", "refuse@x.org"]}
        outcome = await jobs.run(ids.new(), subject="Grüße " * 40, text=text, **mail)
        assert isinstance(outcome, Failed), outcome
        assert outcome.result
        assert [m["state"] for m in outcome.result["messages"]] == ["sent", "sent", "failed"]
        assert isinstance(await jobs.run(to="bob@x.org"), Succeeded)
        for _, content in mailbox.mails[:2]:
            parsed = message_from_bytes(content, policy=policy.SMTPUTF8)
            assert parsed.get_content().replace("\r\n", "\n") == text + "\n"
            assert parsed["Subject"] == ("Grüße " * 40)
        assert sorted(to for [to], _ in mailbox.mails) == [
            "ada@x.org", "bob@x.org", "pelé@xn--exmple-cua.org",
        ]  # fmt: skip
    finally:
        await pool.close_all()
        await asyncio.to_thread(controller.stop)


@pytest.mark.skipif(shutil.which("smtp-sink") is None, reason="needs Postfix's smtp-sink")
async def test_smtp_sink(jobs: Jobs) -> None:
    port = _free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec("smtp-sink", *user, f"127.0.0.1:{port}", "100")
    try:
        await wait_for(lambda: _is_listening(port))
        jobs.smtp_url = f"smtp://127.0.0.1:{port}"
        for _ in range(5):
            assert isinstance(await jobs.run(to="a@x.org, b@x.org"), Succeeded)
        await pool.close_all()
    finally:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
