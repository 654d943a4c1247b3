"""What each reply means, as a table."""

from __future__ import annotations

import pytest

from tasks.email.replies import (
    Deferred,
    HostBackoff,
    LoginRefused,
    Phase,
    Refused,
    Reply,
    classify,
)

TABLE = [
    (Phase.RCPT, "450 4.2.0 Busy", Deferred, {}),
    (Phase.RCPT, "450 Busy", Deferred, {}),
    (Phase.RCPT, "451 4.7.1 Greylisted", Deferred, {"is_greylisting": True}),
    (Phase.DATA, "450 4.7.25 No PTR", Deferred, {"is_greylisting": True}),
    (Phase.DOT, "451 4.7.1 Not yet", Deferred, {"is_greylisting": False}),
    (Phase.RCPT, "452 4.2.2 Mailbox full", Deferred, {}),
    (Phase.RCPT, "552 Too many recipients", Deferred, {}),
    (Phase.DOT, "552 Too large", Refused, {}),
    (Phase.RCPT, "552 5.2.2 Mailbox full", Refused, {"suppresses": False}),
    (Phase.RCPT, "550 5.1.1 No such user", Refused, {"suppresses": True}),
    (Phase.DOT, "550 5.1.1 No such user", Refused, {"suppresses": True}),
    (Phase.RCPT, "556 5.1.10 Null MX", Refused, {"suppresses": True}),
    (Phase.RCPT, "550 No such user", Refused, {"suppresses": False}),
    (Phase.RCPT, "550 5.4.1 Access denied", Refused, {"suppresses": False}),
    (Phase.RCPT, "450 4.1.1 Not verified yet", Deferred, {}),
    (Phase.RCPT, "450 5.1.1 Contradiction", Refused, {"suppresses": False}),
    (Phase.RCPT, "550 4.2.1 Contradiction", Deferred, {}),
    (Phase.DOT, "554 5.7.1 Spam", Refused, {"suppresses": False}),
    (Phase.MAIL, "530 5.7.0 Authentication required", LoginRefused, {}),
    (Phase.LOGIN, "535 5.7.8 Bad credentials", LoginRefused, {}),
    (Phase.LOGIN, "501 5.5.2 Cannot decode", LoginRefused, {}),
    (Phase.LOGIN, "454 4.7.0 Try later", Deferred, {"is_greylisting": False}),
    (Phase.RCPT, "530 5.7.0 Odd", Refused, {}),
    (Phase.DOT, "421 4.3.2 Shutting down", HostBackoff, {}),
    (Phase.MAIL, "421 Too many connections", HostBackoff, {}),
    (Phase.DOT, "354 Out of step", Deferred, {}),
    (Phase.RCPT, "451 4.7.1000 No code", Deferred, {"is_greylisting": False}),
]


@pytest.mark.parametrize(("phase", "line", "expected", "fields"), TABLE)
def test_classification(phase: Phase, line: str, expected: type, fields: dict[str, bool]) -> None:
    result = classify(Reply(int(line[:3]), (line[4:],)), phase)
    assert type(result) is expected
    assert {name: getattr(result, name) for name in fields} == fields


def test_what_is_kept_of_a_reply_is_one_printable_line() -> None:
    reply = Reply(550, ("5.7.1 No\x00\x1b[31m", "x" * 5000))
    assert reply.text.startswith("550 5.7.1 No [31m xxx")
    assert len(reply.text) <= 500
    assert reply.text.isprintable()
