from __future__ import annotations

import shutil
import smtplib
import socket
import subprocess
import sys
import time
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.inbox.conftest import ROOT, Inbox, StartInbox


def mail(
    *, subject: str = "Hello", message_id: str = "<1@test>", text: str = "Good day.\n"
) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "sender@example.org"
    message["To"] = "somebody@example.org"
    message["Subject"] = subject
    message["Message-ID"] = message_id
    message.set_content(text)
    return message


def send(inbox: Inbox, recipient: str, message: EmailMessage) -> None:
    with inbox.smtp() as smtp:
        smtp.send_message(message, to_addrs=[recipient])


def test_a_mail_is_kept_as_it_came(inbox: Inbox) -> None:
    send(inbox, "anna@example.org", mail(text="one\n.two starts with a dot\n..three\n"))
    found = inbox.messages(recipient="ANNA@example.org")
    assert found["total"] == 1
    [shown] = found["messages"]
    assert (shown["sender"], shown["recipient"], shown["message_id"], shown["subject"]) == (
        "sender@example.org",
        "anna@example.org",
        "<1@test>",
        "Hello",
    )
    raw = inbox.http.get(f"/messages/{shown['n']}/raw").text
    assert raw.endswith("one\r\n.two starts with a dot\r\n..three\r\n")
    assert shown["size"] == len(raw)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b".\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n..x\r\nends with a dot.\r\n.\r\n", b"..\r\n.x\r\nends with a dot.\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
    ],
)
def test_dots_are_unstuffed(inbox: Inbox, sent: bytes, kept: bytes) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("a@example.org")
        smtp.rcpt("b@example.org")
        smtp.docmd("DATA")
        smtp.send(sent)
        assert smtp.getreply()[0] == 250
    assert inbox.http.get("/messages/1/raw").content == kept


def test_every_recipient_is_a_delivery(inbox: Inbox) -> None:
    with inbox.smtp() as smtp:
        smtp.send_message(mail(), to_addrs=["a@one.example.org", "b@two.example.org"])
    assert inbox.stats()["messages"] == 2
    assert inbox.stats()["duplicates"] == 0
    assert inbox.stats(recipient_domain="two.example.org")["messages"] == 1


def test_the_same_mail_to_the_same_recipient_is_a_duplicate(inbox: Inbox) -> None:
    send(inbox, "a@example.org", mail())
    send(inbox, "a@example.org", mail())
    send(inbox, "a@example.org", mail(message_id="<2@test>"))
    expected = {"messages": 3, "distinct": 2, "duplicates": 1, "refused": 0, "deferred": 0}
    assert inbox.stats() == expected
    assert inbox.stats(recipient_domain="example.org") == expected


def test_ehlo_offers_what_relays_offer(inbox: Inbox) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        assert {"pipelining", "8bitmime", "smtputf8", "enhancedstatuscodes"} <= set(
            smtp.esmtp_features
        )
        assert smtp.esmtp_features["size"] == "26214400"


def test_non_ascii_addresses_and_subjects(inbox: Inbox) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        smtp.sendmail(
            "józef@example.org",
            ["żółć@exämple.org"],
            "Subject: Zażółć gęślą jaźń\r\nMessage-ID: <u@test>\r\n\r\nok\r\n".encode(),
            mail_options=["SMTPUTF8", "BODY=8BITMIME"],
        )
    send(inbox, "folded@example.org", mail(subject="Ż" * 90))
    [folded, plain] = inbox.messages()["messages"]
    assert plain["recipient"] == "żółć@exämple.org"
    assert plain["subject"] == "Zażółć gęślą jaźń"
    assert folded["subject"] == "Ż" * 90


def test_a_non_ascii_address_needs_smtputf8(inbox: Inbox) -> None:
    assert reply_to(inbox, "RCPT TO:<żółć@example.org>").startswith(b"553 5.6.7")
    assert reply_to(inbox, b"RCPT TO:<\xff@example.org>").startswith(b"553 5.6.7")


@pytest.mark.parametrize(
    ("recipient", "code", "enhanced", "counted"),
    [
        ("refuse@example.org", 550, "5.1.1", "refused"),
        ("Refuse+7@example.org", 550, "5.1.1", "refused"),
        ("full@example.org", 552, "5.2.2", "refused"),
        ("busy+1@example.org", 421, "4.3.2", "deferred"),
    ],
)
def test_recipients_that_are_turned_away(
    inbox: Inbox, recipient: str, code: int, enhanced: str, counted: str
) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(inbox, recipient, mail())
    assert refused.value.recipients[recipient][0] == code
    assert enhanced in str(refused.value.recipients[recipient][1])
    assert inbox.stats()[counted] == 1
    assert inbox.stats(recipient_domain="example.org")[counted] == 1
    assert inbox.stats()["messages"] == 0


def test_busy_closes_the_connection(inbox: Inbox) -> None:
    with socket.create_connection(("127.0.0.1", inbox.smtp_port), timeout=5) as connection:
        file = connection.makefile("rwb")
        file.write(b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<busy@example.org>\r\n")
        file.flush()
        *_, last = file.read().splitlines()
    assert last.startswith(b"421 ")


def test_defer_once_defers_each_mail_once(inbox: Inbox) -> None:
    recipient = "defer-once+a@example.org"
    for message_id in ("<1@test>", "<2@test>"):
        with pytest.raises(smtplib.SMTPDataError) as deferred:
            send(inbox, recipient, mail(message_id=message_id))
        assert deferred.value.smtp_code == 451
        assert "4.7.1" in str(deferred.value.smtp_error)
        send(inbox, recipient, mail(message_id=message_id))
    assert inbox.stats() == {
        "messages": 2,
        "distinct": 2,
        "duplicates": 0,
        "refused": 0,
        "deferred": 2,
    }


def test_slow_answers_the_final_dot_later(inbox: Inbox) -> None:
    started = time.monotonic()
    send(inbox, "slow+300@example.org", mail())
    assert time.monotonic() - started >= 0.3


def test_a_pipelining_client_is_answered_in_order(inbox: Inbox) -> None:
    one = "MAIL FROM:<a@example.org>\r\nRCPT TO:<refuse@example.org>\r\nRCPT TO:<{}@example.org>\r\nDATA\r\n"
    with socket.create_connection(("127.0.0.1", inbox.smtp_port), timeout=5) as connection:
        file = connection.makefile("rwb")
        file.write(b"EHLO x\r\n" + one.format("first").encode())
        file.flush()
        while not file.readline().startswith(b"354"):
            pass
        # the text, the lone dot and the next transaction in one block
        file.write(b"Subject: 1\r\n\r\nSentence.\r\n.\r\n" + one.format("second").encode())
        file.flush()
        replies = [file.readline()[:3] for _ in range(5)]
        file.write(b"\r\nx\r\n.\r\nQUIT\r\n")
        file.flush()
        replies += [line[:3] for line in file.read().splitlines()]
    assert replies == [b"250", b"250", b"550", b"250", b"354", b"250", b"221"]
    assert [shown["recipient"] for shown in inbox.messages()["messages"]] == [
        "second@example.org",
        "first@example.org",
    ]


def test_too_large_is_refused_before_and_after_the_text(inbox: Inbox) -> None:
    assert reply_to(inbox, "MAIL FROM:<a@example.org> SIZE=26214401").startswith(b"552")
    with inbox.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("a@example.org")
        smtp.rcpt("b@example.org")
        code, text = smtp.data(b"a line of text.\r\n" * 1_600_000)
        assert (code, text[:5]) == (552, b"5.3.4")
        smtp.sendmail(
            "a@example.org", ["b@example.org"], "Subject: the connection still works\r\n\r\n"
        )
    assert inbox.stats()["messages"] == 1


def test_a_large_mail_has_a_file_of_its_own(inbox: Inbox, tmp_path: Path) -> None:
    text = "x" * 70 + "\r\n"
    with inbox.smtp() as smtp:
        smtp.sendmail("a@example.org", ["b@example.org", "c@example.org"], text * 5000)
    assert len(list((tmp_path / "inbox" / "raw").iterdir())) == 1
    for n in (1, 2):
        assert inbox.http.get(f"/messages/{n}/raw").text == text * 5000


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"Subject: x\r\n\r\nbare\nfeed\r\n.\r\n", b"550 5.6.11"),
        (b"Subject: x\r\n\r\nbare\rreturn\r\n.\r\n", b"550 5.6.11"),
        (b"x" * 999 + b"\r\n.\r\n", b"500 5.6.0"),
        (b"x" * 998 + b"\r\n.\r\n", b"250 2.0.0"),
    ],
)
def test_texts_that_rfc_5321_forbids(inbox: Inbox, text: bytes, reply: bytes) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("a@example.org")
        smtp.rcpt("b@example.org")
        smtp.docmd("DATA")
        smtp.send(text)
        code, said = smtp.getreply()
        assert b"%d %s" % (code, said.split()[0]) == reply


def test_a_smuggled_end_of_text_is_no_end(inbox: Inbox) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("a@example.org")
        smtp.rcpt("b@example.org")
        smtp.docmd("DATA")
        smtp.send(b"Subject: x\r\n\r\nfoo\n.\r\nMAIL FROM:<evil@example.org>\r\n.\r\n")
        assert smtp.getreply()[0] == 550
        assert smtp.noop()[0] == 250
    assert inbox.stats()["messages"] == 0


def test_what_was_answered_survives_sigkill(start_inbox: StartInbox, tmp_path: Path) -> None:
    first = start_inbox(tmp_path)
    with first.smtp() as smtp:
        for n in range(50):
            smtp.send_message(mail(message_id=f"<{n % 40}@test>"), to_addrs=["a@example.org"])
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            smtp.send_message(mail(), to_addrs=["refuse@example.org"])
        with pytest.raises(smtplib.SMTPDataError):
            smtp.send_message(mail(), to_addrs=["defer-once+x@example.org"])
        first.process.kill()
        first.process.wait()
        smtp.close()
    with (tmp_path / "mails.jsonl").open("ab") as journal:
        journal.write(b'{"event":"accepted","half a li')
    second = start_inbox(tmp_path)
    assert second.stats() == {
        "messages": 50,
        "distinct": 40,
        "duplicates": 10,
        "refused": 1,
        "deferred": 1,
    }
    send(second, "defer-once+x@example.org", mail())
    assert second.messages(limit=1)["messages"][0]["n"] == 51
    assert b"Good day." in second.http.get("/messages/50/raw").content


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit (util-linux) is not installed")
def test_a_full_disk_refuses_for_now_and_keeps_the_books_right(
    start_inbox: StartInbox, tmp_path: Path
) -> None:
    first = start_inbox(tmp_path, file_max_bytes=20_000)
    accepted = 0
    with first.smtp() as smtp:
        while accepted < 100 and code_of(smtp, accepted) == 250:
            accepted += 1
        assert 1 < accepted < 100
        with pytest.raises(smtplib.SMTPDataError, match="Insufficient storage"):
            smtp.send_message(mail(text="x\n" * 20_000), to_addrs=["a@example.org"])
    assert first.stats()["messages"] == accepted
    first.process.terminate()
    first.process.wait()
    second = start_inbox(tmp_path)
    send(second, "a@example.org", mail(message_id="<room again@test>"))
    assert second.stats() == {
        "messages": accepted + 1,
        "distinct": accepted + 1,
        "duplicates": 0,
        "refused": 0,
        "deferred": 0,
    }


def test_a_second_inbox_on_the_same_folder_is_refused(inbox: Inbox, tmp_path: Path) -> None:
    second = run_inbox(tmp_path / "inbox", smtp_port=0)
    assert second.returncode == 1
    assert "is in use by another inbox" in second.stderr
    assert "Traceback" not in second.stderr
    assert inbox.stats()["messages"] == 0


def test_a_taken_port_is_a_sentence(inbox: Inbox, tmp_path: Path) -> None:
    second = run_inbox(tmp_path / "other", smtp_port=inbox.smtp_port)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{inbox.smtp_port}" in second.stderr
    assert "Traceback" not in second.stderr


def code_of(smtp: smtplib.SMTP, n: int) -> int:
    smtp.ehlo_or_helo_if_needed()
    smtp.mail("s@example.org")
    smtp.rcpt("a@example.org")
    return smtp.data(f"Message-ID: <{n}@test>\r\n\r\nx\r\n".encode())[0]


def run_inbox(data_dir: Path, *, smtp_port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "ops.inbox",
            f"--smtp-port={smtp_port}",
            "--http-port=0",
            f"--data-dir={data_dir}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def reply_to(inbox: Inbox, command: str | bytes) -> bytes:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        if b"RCPT" in (command if isinstance(command, bytes) else command.encode()):
            smtp.mail("a@example.org")
        assert smtp.sock is not None
        smtp.sock.sendall((command if isinstance(command, bytes) else command.encode()) + b"\r\n")
        code, said = smtp.getreply()
        return b"%d %s" % (code, said)
