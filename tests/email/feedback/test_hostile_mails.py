"""The mailbox for bounces is open to everyone: nothing raises, and nothing takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.email.feedback import arf, dsn, mail_reader
from tests.email.feedback.samples_of import NAMES, sample

PIECES = [
    b"\n", b"\r\n", b"\n\n", b"--b\n", b"--b--\n", b"--b", b" ", b"\t", b"\x00", b"\xff\xfe", b";",
    b"<", b">", b"@", b":", b"a@x.org", b"<a@x.org>:\n", b"5.1.1", b"550 5.1.1 No such user",
    b"From: MAILER-DAEMON@x\n", b"Return-Path: <>\n", b"Auto-Submitted: auto-replied\n",
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n',
    b'Content-Type: multipart/mixed; boundary="b"\n\n', b"Content-Type: message/delivery-status\n\n",
    b"Content-Type: message/feedback-report\n\n", b"Content-Type: message/rfc822\n\n",
    b"Content-Transfer-Encoding: base64\n", b"Content-Type: text/html; charset=punycode\n\n",
    b"Final-Recipient: rfc822; a@x.org\n", b"Action: failed\n", b"Status: 5.1.1\n",
    b"Feedback-Type: abuse\n", b"Original-Rcpt-To: a@x.org\n", b"Arrival-Date: Mon, 99\n",
    b"Incidents: 99999999999\n", b"X-Failed-Recipients: a@x.org, b@x.org\n",
    b"Hi. This is the qmail-send program at x\n", b"This is the mail system at host x\n",
    b"A message that you sent could not be delivered\n", b"  a@x.org\n", b"a@x.org on 1/1/2026\n",
    b"Your message did not reach some or all of the intended recipients\n",
    b"Delivery to the following recipient failed permanently\n", b"Message-ID: <a@b>\n",
]  # fmt: skip


def both(raw: bytes) -> None:
    reading = dsn.read(raw)
    assert reading.why
    assert len(reading.reports) <= 100
    for report in reading.reports:
        words = [report.diagnostic, report.final_recipient, report.original_recipient]
        words += [report.remote_mta, report.message_id, report.token, reading.envelope_id]
        for word in filter(None, words):
            assert len(word) <= 1_100
            assert "\x00" not in word
            word.encode()  # no lone surrogates, which Postgres would refuse
    assert arf.read(raw).why


@settings(deadline=None, max_examples=200)
@given(raw=st.binary(max_size=2_000))
def test_any_bytes(raw: bytes) -> None:
    both(raw)


@settings(deadline=None, max_examples=400)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40))
def test_pieces_of_reports_in_any_order(pieces: list[bytes]) -> None:
    both(b"".join(pieces))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_samples_that_were_damaged(data: st.DataObject) -> None:
    raw = bytearray(sample(data.draw(st.sampled_from(NAMES))))
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(raw)))
        end = min(len(raw), start + data.draw(st.integers(0, 200)))
        raw[start:end] = data.draw(st.sampled_from([*PIECES, b""]))
    both(bytes(raw))


MEGABYTE = 1_000_000
DAEMON = b"From: MAILER-DAEMON@x\nReturn-Path: <>\n"
REPORT = DAEMON + b'Content-Type: multipart/report; boundary="b"\n\n--b\n'
QMAIL = DAEMON + b"\nHi. This is the qmail-send program at x\n\n"


def nested(levels: int) -> bytes:
    start = b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n'
    return DAEMON + b"".join(start % (level, level) for level in range(levels))


HOSTILE = {
    "nesting": nested(20_000),
    "one boundary for every level": DAEMON
    + b'Content-Type: multipart/mixed; boundary="b"\n\n--b\n' * 20_000,
    "parts": REPORT + b"\n--b\n" * (MEGABYTE // 5),
    "recipients": REPORT
    + b"Content-Type: message/delivery-status\n\n"
    + b"Final-Recipient: rfc822; a@x.org\nAction: failed\n\n" * 20_000,
    "lines that are no fields": REPORT
    + b"Content-Type: message/delivery-status\n\n"
    + b"?\n" * 500_000,
    "header": b"A: b\n" * 200_000,
    "folded header": DAEMON + b"Subject: a\n" + b" b\n" * 300_000,
    "long header": DAEMON + b"To: " + b"bounce+" * 140_000,
    "long content type": b"Content-Type: multipart/report" + b"; a=b" * 200_000,
    "blanks in the content type": b"Content-Type: multipart/report;" + b" " * MEGABYTE,
    "dashes": REPORT + b"-" * MEGABYTE,
    "lines of dashes": QMAIL + b"-\n" * 500_000,
    "angles": QMAIL + b"<" * MEGABYTE,
    "tags": DAEMON + b"Content-Type: text/html\n\n" + b"<a" * 500_000,
    "entities": DAEMON + b"Content-Type: text/html\n\n" + b"&#1;" * 250_000,
    "addresses": QMAIL + b"<a@x.org>:\n" * 90_000,
    "one long line of addresses": QMAIL + b"a@" * 500_000,
    "blanks": QMAIL + b" " * MEGABYTE,
    "codes": QMAIL + b"<a@x.org>: " + b"5.1.1." * 150_000,
    "expanded from": QMAIL + b"<a@x.org> (expanded from " * 40_000,
    "failed recipients": DAEMON + b"X-Failed-Recipients: " + b"a@b," * 250_000,
    "punycode": DAEMON + b"Content-Type: text/plain; charset=punycode\n\n" + b"a-" * 500_000,
    "base64": DAEMON + b"Content-Transfer-Encoding: base64\n\n" + b"=A" * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_malice_takes_no_more_than_a_moment(name: str) -> None:
    started = time.process_time()
    both(HOSTILE[name])
    assert time.process_time() - started < 1.0


def test_a_report_before_a_large_mail_is_read_all_the_same() -> None:
    raw = sample("postfix").replace(b"\nHello.\n", b"\n" + b"x" * 76 + b"\n" * 30_000_000)
    assert dsn.read(raw).reports == dsn.read(sample("postfix")).reports


def test_limits_of_the_tree() -> None:
    mail = mail_reader.parse(nested(100))
    assert max(_depths(mail)) == mail_reader.DEPTH_MAX
    assert sum(1 for _ in mail_reader.parse(HOSTILE["parts"]).walk()) == mail_reader.PARTS_MAX + 1


def _depths(part: mail_reader.Part, depth: int = 0) -> list[int]:
    return [depth, *(d for child in part.parts for d in _depths(child, depth + 1))]
