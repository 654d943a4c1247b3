"""What is decided about an address, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.email.feedback import arf, classify, dsn
from tasks.email.feedback.arf import Complaint, FeedbackType
from tasks.email.feedback.event import Cause, Event, Kind, Permanence
from tasks.email.feedback.report import Action, Report
from tests.email.feedback.samples_of import sample

# name -> what is decided about each recipient: category, and whether the address is suppressed
SAMPLES = {
    "postfix": [("hard_bounce", True)],
    "postfix-delayed": [("deferred", False), ("deferred", False)],
    "postfix-text": [("hard_bounce", True), ("mailbox_full", False)],
    "exim": [("hard_bounce", True), ("mailbox_full", False)],
    "exim-delayed": [("deferred", False)],
    "exim-report": [("policy", False)],
    "qmail": [("hard_bounce", True), ("hard_bounce", True)],
    "sendmail": [("hard_bounce", True)],
    "exchange-2000": [("hard_bounce", True)],
    "exchange-2003": [("hard_bounce", True)],
    "exchange-text": [("hard_bounce", True)],
    "exchange-online": [("hard_bounce", True)],
    "exchange-online-html": [("mailbox_full", False)],
    "gmail": [("hard_bounce", True)],
    "gmail-text": [("hard_bounce", True)],
    "yahoo": [("hard_bounce", True)],
    "success": [("delivered", False)] * 3,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples(name: str) -> None:
    made = [classify.of_report(report) for report in dsn.read(sample(name)).reports]
    assert [(d.category.value, d.suppress) for d in made] == SAMPLES[name]


TABLE = [
    # exact codes
    ("5.1.1", "550 5.1.1 User unknown", "hard_bounce"),
    ("5.1.3", "501 5.1.3 Bad syntax", "hard_bounce"),
    ("5.1.6", "551 5.1.6 Moved", "hard_bounce"),
    ("5.1.10", "556 5.1.10 Null MX", "hard_bounce"),
    ("5.7.17", "550 5.7.17 Mailbox owner has changed", "hard_bounce"),
    ("5.1.2", "550 5.1.2 Host unknown", "soft_bounce"),
    ("5.2.1", "550 5.2.1 The email account that you tried to reach is inactive", "soft_bounce"),
    ("5.2.2", "552 5.2.2 Over quota", "mailbox_full"),
    ("4.2.2", "452 4.2.2 Over quota", "mailbox_full"),
    ("4.4.1", "connect to mx.example.net[192.0.2.1]:25: Connection timed out", "soft_bounce"),
    ("5.4.4", "Host or domain name not found. Name service error for name=x", "soft_bounce"),
    ("5.4.6", "554 5.4.6 Too many hops", "soft_bounce"),
    ("5.3.4", "552 5.3.4 Message too big", "policy"),
    ("5.6.1", "554 5.6.1 Media not supported", "policy"),
    ("5.1.8", "553 5.1.8 Sender domain not found", "policy"),
    # policy, in whatever words: the address may be a good one
    ("5.7.1", "550 5.7.1 Message rejected as spam", "policy"),
    ("5.7.1", "550 5.7.1 No such user here", "policy"),
    ("5.7.26", "550-5.7.26 This mail is unauthenticated", "policy"),
    ("5.7.606", "550 5.7.606 Access denied, banned sending IP", "policy"),
    ("4.7.0", "421 4.7.0 Try again later", "policy"),
    ("5.1.1", "550 5.1.1 Blocked using zen.spamhaus.org", "policy"),
    ("5.0.0", "554 Service unavailable; Client host blocked using dnsbl", "policy"),
    (None, "550 Sender address does not exist", "policy"),
    # vague codes: the words are heard first
    ("5.0.0", "550 No such user here", "hard_bounce"),
    ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied", "soft_bounce"),
    ("5.5.0", "550 5.5.0 Requested action not taken: mailbox unavailable", "soft_bounce"),
    (None, "554 delivery error: dd This user doesn't have a yahoo.com account", "hard_bounce"),
    (None, "552 Mailbox is full", "mailbox_full"),
    (None, "Connection refused", "soft_bounce"),
    ("5.3.0", None, "soft_bounce"),
    # nothing to go by
    ("5.0.0", "550 No", "unknown"),
    ("5.5.0", None, "unknown"),
    (None, None, "unknown"),
    # a contradiction never condemns
    ("4.1.1", "450 4.1.1 User unknown", "soft_bounce"),
    ("4.0.0", "450 No such user", "soft_bounce"),
    ("4.0.0", None, "soft_bounce"),
    # words in an address are not the host's words
    ("5.1.1", "550 5.1.1 <antispam@example.net>: User unknown", "hard_bounce"),
]


@pytest.mark.parametrize(("status", "text", "category"), TABLE)
def test_the_table(status: str | None, text: str | None, category: str) -> None:
    decision = classify.of_report(Report(Action.FAILED, status=status, diagnostic=text))
    assert decision.category.value == category
    assert decision.suppress == (category == "hard_bounce")
    assert decision.counts == (category in {"soft_bounce", "mailbox_full"})


@given(
    detail=st.tuples(st.sampled_from("245"), st.integers(0, 999), st.integers(0, 999)),
    text=st.none() | st.text(max_size=200),
    action=st.sampled_from(Action),
)
def test_every_decision_is_explained_and_policy_never_suppresses(
    detail: tuple[str, int, int], text: str | None, action: Action
) -> None:
    status = ".".join(map(str, detail))
    decision = classify.of_report(Report(action, status=status, diagnostic=text))
    assert decision.why[0].isupper()
    assert decision.why.endswith(".")
    assert status in decision.why
    if detail[1] == 7 and detail[2] not in {17, 18}:
        assert not decision.suppress
    assert decision.suppress <= (action is Action.FAILED and detail[0] != "4")


def test_soft_bounces_add_up() -> None:
    report = Report(Action.FAILED, status="4.4.1")
    made = [classify.of_report(report, soft_bounces=n, soft_max=3) for n in range(4)]
    assert [d.suppress for d in made] == [False, False, True, True]
    assert all(d.counts for d in made)
    assert made[0].why == (
        "The host did not answer, or did not take the recipient (4.4.1): "
        "soft bounce 1 in a row, at 3 the address is suppressed."
    )
    assert made[2].why.endswith("soft bounce 3 in a row, the address is suppressed.")


def test_policy_does_not_add_up() -> None:
    report = Report(Action.FAILED, status="5.7.1")
    decision = classify.of_report(report, soft_bounces=100)
    assert not decision.suppress
    assert not decision.counts
    assert "not the address's fault" in decision.why


@pytest.mark.parametrize(
    ("name", "category", "suppress"),
    [
        ("arf-abuse", "complaint", True),
        ("arf-yahoo", "complaint", True),
        ("arf-microsoft", "complaint", True),
        ("arf-not-spam", "ignored", False),
    ],
)
def test_complaints(name: str, category: str, suppress: bool) -> None:
    complaint = arf.read(sample(name)).complaint
    assert complaint is not None
    decision = classify.of_complaint(complaint)
    assert (decision.category.value, decision.suppress) == (category, suppress)


def test_every_type_of_complaint_is_decided() -> None:
    kept = {t.value for t in FeedbackType if not classify.of_complaint(Complaint(t)).suppress}
    assert kept == {"not-spam", "auth-failure"}


PERMANENT, TRANSIENT = Permanence.PERMANENT, Permanence.TRANSIENT
EVENTS = [
    ({"kind": Kind.DELIVERED}, "delivered", False),
    ({"kind": Kind.DEFERRED, "status": "4.2.2"}, "deferred", False),
    ({"kind": Kind.COMPLAINED}, "complaint", True),
    ({"kind": Kind.UNSUBSCRIBED}, "unsubscribed", True),
    ({"kind": Kind.OPENED}, "ignored", False),
    ({"permanence": PERMANENT}, "hard_bounce", True),
    ({"permanence": TRANSIENT}, "soft_bounce", False),
    ({"permanence": Permanence.UNDETERMINED}, "unknown", False),
    ({"permanence": PERMANENT, "cause": Cause.POLICY}, "policy", False),
    ({"permanence": PERMANENT, "cause": Cause.MESSAGE}, "policy", False),
    ({"permanence": PERMANENT, "cause": Cause.ADDRESS}, "hard_bounce", True),
    ({"permanence": TRANSIENT, "cause": Cause.MAILBOX_FULL}, "mailbox_full", False),
    ({"permanence": PERMANENT, "status": "5.7.1"}, "policy", False),
    ({"permanence": PERMANENT, "status": "5.1.1", "cause": Cause.POLICY}, "hard_bounce", True),
    ({"permanence": TRANSIENT, "status": "5.1.1"}, "soft_bounce", False),
    ({"permanence": PERMANENT, "reason": "552 mailbox full"}, "mailbox_full", False),
    ({}, "unknown", False),
]


@pytest.mark.parametrize(("fields", "category", "suppress"), EVENTS)
def test_events(fields: dict[str, object], category: str, suppress: bool) -> None:
    event = Event(**{"provider": "x", "id": "1", "kind": Kind.BOUNCED, **fields})  # type: ignore[arg-type]
    decision = classify.of_event(event)
    assert (decision.category.value, decision.suppress) == (category, suppress)
    assert decision.why.endswith(".")
