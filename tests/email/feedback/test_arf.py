"""Complaints: who, about what, and what is blacked out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tasks.email.feedback import arf, verp
from tasks.email.feedback.arf import FeedbackType
from tests.email.feedback.samples_of import MESSAGE, MESSAGE_ID, NAMES, SECRET, sample


def test_a_complaint_after_the_rfc() -> None:
    complaint = arf.read(sample("arf-abuse")).complaint
    assert complaint is not None
    assert complaint.type is FeedbackType.ABUSE
    assert complaint.recipients == ("ada@example.net", "bob@example.net")
    assert not complaint.is_redacted
    assert complaint.message_id == MESSAGE_ID
    assert complaint.source_ip == "192.0.2.10"
    assert complaint.reported_domain == "example.com"
    assert complaint.at == datetime(2026, 11, 30, 10, tzinfo=UTC)
    assert complaint.incidents == 2
    assert complaint.list_unsubscribe == "<https://mail.example.com/u/abc>"


@pytest.mark.parametrize("name", ["arf-abuse", "arf-yahoo", "arf-not-spam", "arf-microsoft"])
def test_every_complaint_names_its_message(name: str) -> None:
    complaint = arf.read(sample(name)).complaint
    assert complaint is not None
    assert complaint.token is not None
    assert verp.read(verp.keys_of(SECRET), complaint.token) == MESSAGE


def test_a_recipient_that_is_blacked_out_is_no_recipient() -> None:
    complaint = arf.read(sample("arf-yahoo")).complaint
    assert complaint is not None
    assert complaint.recipients == ()
    assert complaint.is_redacted


def test_microsofts_complaints_have_no_report_but_name_the_recipient() -> None:
    complaint = arf.read(sample("arf-microsoft")).complaint
    assert complaint is not None
    assert complaint.type is FeedbackType.ABUSE
    assert complaint.recipients == ("ada@hotmail.com",)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("arf-")])
def test_nothing_else_is_a_complaint(name: str) -> None:
    reading = arf.read(sample(name))
    assert reading.complaint is None
    assert "no complaint" in reading.why


@pytest.mark.parametrize(
    ("address", "clear"),
    [
        ("<ada@example.net>", True),
        ("xavier@example.net", True),
        ("removals@example.net", True),
        ("redacted@example.net", False),
        ("<redacted>", False),
        ("[redacted]@example.net", False),
        ("xxxxxx@example.net", False),
        ("****@example.net", False),
        ("Undisclosed Recipients", False),
        ("@example.net", False),
    ],
)
def test_what_is_blacked_out(address: str, clear: bool) -> None:
    mail = sample("arf-yahoo").replace(b"redacted@yahoo.com", address.encode())
    complaint = arf.read(mail).complaint
    assert complaint is not None
    assert (complaint.recipients == (address.strip("<>"),)) == clear
    assert complaint.is_redacted != clear


@pytest.mark.parametrize(
    ("stated", "kind"), [("Fraud", "fraud"), ("NOT-SPAM", "not-spam"), ("x-own", "other")]
)
def test_types_in_any_case_and_unknown_ones(stated: str, kind: str) -> None:
    mail = sample("arf-abuse").replace(b"Feedback-Type: abuse", f"Feedback-Type: {stated}".encode())
    complaint = arf.read(mail).complaint
    assert complaint is not None
    assert complaint.type.value == kind
