"""Every known format of bounces, and what is none."""

from __future__ import annotations

import pytest

from tasks.email.feedback import dsn, verp
from tasks.email.feedback.report import Report
from tests.email.feedback.samples_of import MESSAGE, MESSAGE_ID, NAMES, SECRET, sample

# name -> (action, status, final recipient) of each report
EXPECTED: dict[str, list[tuple[str, str | None, str]]] = {
    "postfix": [("failed", "5.1.1", "nobody@example.net")],
    "postfix-delayed": [
        ("delayed", "4.4.1", "one@example.net"),
        ("delayed", "4.2.2", "two@example.org"),
    ],
    "postfix-text": [
        ("failed", "5.1.1", "nobody@example.net"),
        ("failed", "4.2.2", "full@example.net"),
    ],
    "exim": [
        ("failed", "5.1.1", "nobody@example.net"),
        ("failed", "5.2.2", "full@example.net"),
    ],
    "exim-delayed": [("delayed", None, "slow@example.net")],
    "exim-report": [("failed", "5.7.1", "nobody@example.net")],
    "qmail": [
        ("failed", "5.1.1", "nobody@example.net"),
        ("failed", "5.1.1", "gone@example.org"),
    ],
    "sendmail": [("failed", "5.1.1", "nobody@example.net")],
    "exchange-2000": [("failed", None, "nobody@example.net")],
    "exchange-2003": [("failed", "5.1.1", "nobody@example.net")],
    "exchange-text": [("failed", "5.1.1", "nobody@example.net")],
    "exchange-online": [("failed", "5.1.10", "nobody@example.net")],
    "exchange-online-html": [("failed", "5.2.2", "nobody@example.net")],
    "gmail": [("failed", "5.1.1", "nobody@example.net")],
    "gmail-text": [("failed", "5.1.1", "nobody@example.net")],
    "yahoo": [("failed", None, "nobody@yahoo.com")],
    "success": [
        ("relayed", "2.0.0", "one@example.net"),
        ("expanded", "2.0.0", "list@example.net"),
        ("delivered", "2.1.5", "three@example.net"),
    ],
}
# What these cannot tell: nothing of the original came back with them.
WITHOUT_MESSAGE_ID = {"exim-delayed", "success", "exchange-2003", "exchange-online-html"}
WITHOUT_TOKEN = {"postfix-text", "exchange-2003", "exchange-text"}


def test_every_sample_is_expected_to_be_something() -> None:
    assert {n for n in NAMES if not n.startswith(("no-", "arf-"))} == set(EXPECTED)


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", EXPECTED)
def test_who_it_was_and_what_happened(name: str, ends: bytes) -> None:
    reading = dsn.read(sample(name).replace(b"\n", ends))
    assert reading.is_report
    found = [(r.action.value, r.status, r.final_recipient) for r in reading.reports]
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - {"postfix-text"}))
def test_the_original_is_found(name: str) -> None:
    [*reports] = dsn.read(sample(name)).reports
    ids = {report.message_id for report in reports}
    assert ids == ({None} if name in WITHOUT_MESSAGE_ID else {MESSAGE_ID})
    keys = verp.keys_of(SECRET)
    tokens = {verp.read(keys, report.token) if report.token else None for report in reports}
    assert tokens == ({None} if name in WITHOUT_TOKEN else {MESSAGE})


def test_a_token_in_a_quoted_return_path_is_found() -> None:
    [first, _] = dsn.read(sample("postfix-text")).reports
    assert first.token is not None
    assert verp.read(verp.keys_of(SECRET), first.token) == MESSAGE


def test_the_address_that_a_bounce_was_delivered_to_may_be_the_only_place_of_the_token() -> None:
    path = verp.make(verp.keys_of(SECRET), message_id=MESSAGE, domain="mail.example.com")
    assert dsn.read(sample("exchange-2003")).reports[0].token is None
    [report] = dsn.read(sample("exchange-2003"), envelope_to=path.upper()).reports
    assert report.token is not None
    assert verp.read(verp.keys_of(SECRET), report.token) == MESSAGE


def test_all_that_a_report_says_is_kept() -> None:
    [report] = dsn.read(sample("postfix")).reports
    assert report.original_recipient == "nobody@example.net"
    assert report.remote_mta == "store.example.net"
    assert report.diagnostic == (
        "550 5.1.1 <nobody@example.net>: Recipient address rejected: "
        "User unknown in virtual mailbox table"
    )
    assert dsn.read(sample("success")).envelope_id == "order-17"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no-vacation", "automatic reply"),
        ("no-autoreply", "automatic reply"),
        ("no-vacation-program", "vacation program"),
        ("no-ordinary", "ordinary mail"),
        ("no-read-receipt", "was read"),
        ("no-postmaster", "no format of bounces"),
        ("arf-abuse", "complaint"),
        ("arf-yahoo", "complaint"),
        ("arf-not-spam", "complaint"),
        ("arf-microsoft", "ordinary mail"),
    ],
)
def test_what_is_no_report_says_why(name: str, why: str) -> None:
    reading = dsn.read(sample(name))
    assert reading.reports == ()
    assert why in reading.why


def test_a_bounce_that_somebody_forwards_is_no_bounce_of_his() -> None:
    forwarded = (
        b'From: ada@example.net\nContent-Type: multipart/mixed; boundary="f"\n\n'
        b"--f\nContent-Type: message/rfc822\n\n" + sample("postfix") + b"\n--f--\n"
    )
    assert not dsn.read(forwarded).is_report


def _block(fields: str) -> list[Report]:
    mail = (
        'From: MAILER-DAEMON@x\nContent-Type: multipart/report; boundary="b"\n\n'
        f"--b\nContent-Type: message/delivery-status\n\n{fields}\n--b--\n"
    )
    return list(dsn.read(mail.encode()).reports)


def test_recipients_that_no_blank_line_parts() -> None:
    found = _block(
        "Reporting-MTA: dns; x\nFinal-Recipient: rfc822; a@x.org\nAction: failed\nStatus: 5.1.1\n"
        "Final-Recipient: rfc822; b@x.org\nAction: delayed\nStatus: 4.2.2\n"
    )
    assert [(r.final_recipient, r.action.value) for r in found] == [
        ("a@x.org", "failed"),
        ("b@x.org", "delayed"),
    ]


@pytest.mark.parametrize(
    ("fields", "action", "status"),
    [
        ("Status: 5.1.1", "failed", "5.1.1"),
        ("Status: 4.2.2", "delayed", "4.2.2"),
        ("Status: 2.0.0", "delivered", "2.0.0"),
        ("Action: Failure", "failed", None),
        ("Action: nonsense\nStatus: 4.4.1 (timed out)", "delayed", "4.4.1"),
        ("Action: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; 550 5.1.1 No", "failed", "5.1.1"),
        ("Action: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; 450 4.1.1 No", "failed", "5.0.0"),
        ("Action: failed\nDiagnostic-Code: smtp; 550 No 192.5.1.1", "failed", None),
    ],
)
def test_fields_that_are_missing_or_vague(fields: str, action: str, status: str | None) -> None:
    [report] = _block(f"Final-Recipient: rfc822; a@x.org\n{fields}")
    assert (report.action.value, report.status) == (action, status)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("rfc822;a@x.org", "a@x.org"),
        ("rfc822; <a@x.org>", "a@x.org"),
        ("a@x.org", "a@x.org"),
        ("utf-8; j\\x{FC}rgen@x.org", "jürgen@x.org"),
        ("utf-8; a\\x{D800}@x.org", "a\\x{D800}@x.org"),
        ("rfc822; two words", None),
        ("rfc822;", None),
    ],
)
def test_addresses_of_every_type(value: str, address: str | None) -> None:
    [report] = _block(f"Final-Recipient: {value}\nAction: failed")
    assert report.final_recipient == address
