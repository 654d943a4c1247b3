"""Greeting, TLS, login, extensions, and relays that misbehave."""

from __future__ import annotations

import asyncio
import base64
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ledger import ids
from tasks.email import pool
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded
from tests.email.scripted_relay import Act, ScriptedRelay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.email.conftest import Jobs


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A CA's file, and a server context with a certificate of it for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("ca")
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])

    def build(name: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = (
        build(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        build(x509.Name([]), key.public_key())
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=True
        )
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (folder / "leaf.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    return folder / "ca.pem", context


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("auth", ["PLAIN LOGIN", "LOGIN"])
async def test_tls_and_login(
    jobs: Jobs, certificates: tuple[Path, ssl.SSLContext], implicit: bool, auth: str
) -> None:
    ca, context = certificates
    async with ScriptedRelay(
        tls=context, implicit_tls=implicit, logins={"ada": "pässword"}, auth=auth
    ) as relay:
        jobs.smtp_url = relay.url(login="ada:p%C3%A4ssword", ca=ca)
        assert isinstance(await jobs.run(text="x" * 300_000), Succeeded)
        assert relay.commands.count("STARTTLS") == (not implicit)
        await pool.close_all()


@pytest.mark.parametrize("implicit", [True, False])
async def test_an_unknown_certificate_is_refused_and_costs_no_attempt(
    jobs: Jobs, certificates: tuple[Path, ssl.SSLContext], implicit: bool
) -> None:
    _, context = certificates
    async with ScriptedRelay(tls=context, implicit_tls=implicit, logins={"a": "b"}) as relay:
        jobs.smtp_url = relay.url(login="a:b", backoff_s=0.001)
        outcome = await jobs.run()
        assert isinstance(outcome, Snooze)
        assert "certificate is not trusted" in outcome.reason
        assert not any(command.startswith("AUTH") for command in relay.commands)
        jobs.smtp_url = relay.url(login="a:b", verify="no", backoff_s=0.001)
        assert isinstance(await jobs.run(), Succeeded)
        await pool.close_all()


async def test_a_relay_without_starttls_gets_neither_login_nor_mail(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.logins = {"a": "b"}
    jobs.smtp_url = relay.url(login="a:b").replace("smtp://", "smtp+starttls://")
    outcome = await jobs.run()
    assert isinstance(outcome, Snooze)
    assert "does not offer STARTTLS" in outcome.reason
    assert relay.commands == [relay.commands[0]]


async def test_words_slipped_in_before_tls_are_not_believed(
    jobs: Jobs, certificates: tuple[Path, ssl.SSLContext]
) -> None:
    ca, context = certificates
    async with ScriptedRelay(tls=context) as relay:
        relay.next("STARTTLS", "220 2.0.0 Go ahead\n250 injected")
        jobs.smtp_url = relay.url(ca=ca)
        outcome = await jobs.run()
        assert isinstance(outcome, Snooze)
        assert "unsolicited reply before TLS" in outcome.reason


async def test_a_relay_that_offers_no_login_is_stopped(jobs: Jobs, relay: ScriptedRelay) -> None:
    jobs.smtp_url = relay.url(login="a:b")
    outcome = await jobs.run()
    assert isinstance(outcome, Snooze)
    assert "neither AUTH PLAIN nor AUTH LOGIN" in outcome.reason


async def test_helo_is_enough(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.always("EHLO", "502 5.5.1 Not here")
    assert isinstance(await jobs.run(), Succeeded)
    assert [c.split()[0] for c in relay.commands] == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("offers", [True, False])
async def test_international_addresses(jobs: Jobs, relay: ScriptedRelay, offers: bool) -> None:
    relay.smtputf8 = offers
    outcome = await jobs.run(to=["pelé@exämple.org", "ada@exämple.org"])
    by_recipient = {mail.recipient: mail for mail in relay.mails}
    assert "SMTPUTF8" not in by_recipient["ada@xn--exmple-cua.org"].options
    if offers:
        assert isinstance(outcome, Succeeded)
        assert "BODY=8BITMIME SMTPUTF8" in by_recipient["pelé@xn--exmple-cua.org"].options
    else:
        assert isinstance(outcome, Failed)
        assert outcome.result
        assert [m["state"] for m in outcome.result["messages"]] == ["failed", "sent"]
        assert "does not offer SMTPUTF8" in outcome.result["messages"][0]["reply"]


async def test_a_mail_larger_than_the_relay_takes_is_not_offered(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.size_max = 10_000
    outcome = await jobs.run(text="x\n" * 10_000)
    assert isinstance(outcome, Failed)
    assert "5.3.4" in outcome.reason
    assert isinstance(await jobs.run(), Succeeded)
    assert any(" SIZE=" in command for command in relay.commands)


async def test_a_large_attachment_arrives_whole(jobs: Jobs, relay: ScriptedRelay) -> None:
    content = base64.b64encode(bytes(range(256)) * 20_000).decode()
    outcome = await jobs.run(attachments=[{"filename": "a.bin", "content": content}])
    assert isinstance(outcome, Succeeded)
    assert len(relay.mails[0].data) > 6_000_000


async def test_pipelined_data_that_goes_ahead_without_a_recipient_is_cut(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.next("RCPT", "550 5.7.1 No")
    relay.next("DATA", "354 Go on anyway")
    assert isinstance(await jobs.run(), Failed)
    assert relay.mails == []
    assert isinstance(await jobs.run(to="bob@x.org"), Succeeded)
    assert relay.connections == 2


@pytest.mark.parametrize(
    "words",
    ["hello?", "25", "2x0 OK", "150 no such class", "250 " + "x" * 5000, "250-x\n" * 200 + "250 x"],
)
async def test_what_is_no_smtp_is_lost_before_the_dot(
    jobs: Jobs, relay: ScriptedRelay, words: str
) -> None:
    relay.next("MAIL", words)
    outcome = await jobs.run()
    assert isinstance(outcome, RetryLater)
    assert "lost at mail" in outcome.reason


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"])
async def test_a_relay_that_trickles_is_timed_out_and_others_flow(
    jobs: Jobs, relay: ScriptedRelay, step: str
) -> None:
    names = ["greeting", "command", "data", "dot"]
    limits: dict[str, Any] = {f"{name}_timeout_s": 0.3 for name in names}
    jobs.smtp_url = relay.url(connections=2, backoff_s=0.001, **limits)
    slow = "220 hello" if step == "CONNECT" else "250 OK"
    relay.next(step, Act(f"{slow} {'z' * 1000}", byte_s=0.05))
    trickling = asyncio.create_task(jobs.run())
    await relay.reached(step)
    assert isinstance(await jobs.run(), Succeeded)
    outcome = await trickling
    expected = Snooze if step in {"CONNECT", "EHLO"} else RetryLater
    assert isinstance(outcome, expected)
    assert "did not reply in time" in outcome.reason


async def test_a_relay_that_takes_no_data_is_timed_out_before_the_dot(jobs: Jobs) -> None:
    over, closed = asyncio.Event(), asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        for answer in (b"250 x\r\n", b"250 x\r\n", b"250 x\r\n", b"354 x\r\n"):
            await reader.readline()
            writer.write(answer)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        writer.transport.abort()
        closed.set()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    jobs.smtp_url = f"smtp://127.0.0.1:{port}?block_timeout_s=0.3"
    job_id = ids.new()
    outcome = await jobs.run(job_id, text="x\n" * 4_000_000)
    assert isinstance(outcome, RetryLater)
    assert "lost at body: the relay accepts no more data" in outcome.reason
    assert await jobs.states(job_id) == ["deferred"]
    server.close()
    over.set()
    await closed.wait()
