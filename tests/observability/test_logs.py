"""docs/logs.md is a contract: what it lists is what the source says, and nothing personal."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from runtime import logs
from runtime.redaction import redacted
from tests.observability.actions import ROOT, Line, lines

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW = re.compile(
    r"^\| `(?P<action>[a-z_.]+)` \| (?P<level>\w+) \| [^|]+ \| (?P<fields>[^|]*)\| [^|]+ \|$"
)
# Names under which personal or secret things would travel; allowed where the value is hashed.
SENSITIVE = {
    "address", "attachments", "authorization", "bcc", "body", "cc", "content", "cookie", "credentials", "email",
    "headers", "html", "key", "login", "mail_from", "parameters", "password", "payload", "query", "rcpt_to",
    "recipient", "recipients", "reply", "result_body", "secret", "sender", "subject", "text", "to", "token", "url", "user",
}  # fmt: skip
RESERVED = {
    "at",
    "level",
    "service",
    "colour",
    "process",
    "logger",
    "action",
    "trace_id",
    "span_id",
    "traceback",
    "error_message",
}


@dataclass(frozen=True)
class Documented:
    level: str
    fields: frozenset[str]


@pytest.fixture(scope="module")
def table() -> dict[str, Documented]:
    rows: dict[str, Documented] = {}
    for text in (
        (ROOT / "docs" / "logs.md").read_text(encoding="utf-8").split("## Actions")[1].splitlines()
    ):
        if text.startswith("| `"):
            row = ROW.match(text)
            assert row, f"not a row of the table: {text}"
            assert row["action"] not in rows, f"{row['action']} is there twice"
            rows[row["action"]] = Documented(
                row["level"], frozenset(re.findall(r"`(\w+)`", row["fields"]))
            )
    return rows


@pytest.fixture(scope="module")
def source() -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines():
        found.setdefault(line.action, []).append(line)
    return found


def test_the_table_and_the_source_have_the_same_actions(
    table: dict[str, Documented], source: dict[str, list[Line]]
) -> None:
    assert sorted(set(source) - set(table)) == []
    assert sorted(set(table) - set(source) - {"library.message"}) == []
    assert list(table)[1:] == sorted(list(table)[1:])


def test_levels_and_fields_agree(
    table: dict[str, Documented], source: dict[str, list[Line]]
) -> None:
    wrong = []
    for action, calls in source.items():
        said = table.get(action)
        if said is None:
            continue
        used = frozenset().union(*(call.fields for call in calls))
        if {call.level for call in calls} != {said.level}:
            wrong.append(f"{action}: level {said.level}, but {[(c.level, c.where) for c in calls]}")
        if used - said.fields or (said.fields - used and not any(call.is_open for call in calls)):
            wrong.append(
                f"{action}: fields {sorted(said.fields)}, but {sorted(used)} in {[c.where for c in calls]}"
            )
    assert wrong == []


def test_actions_are_dotted_words(source: dict[str, list[Line]]) -> None:
    assert [action for action in source if not re.fullmatch(r"[a-z]+\.[a-z_]+", action)] == []


def test_no_field_carries_anything_personal(source: dict[str, list[Line]]) -> None:
    bad = [
        f"{line.where}: {sorted(SENSITIVE & line.unhashed)}"
        for calls in source.values()
        for line in calls
        if SENSITIVE & line.unhashed
    ]
    assert bad == []


def test_no_field_hides_what_every_line_has(source: dict[str, list[Line]]) -> None:
    assert [
        line.where for calls in source.values() for line in calls if RESERVED & line.fields
    ] == []


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    root, relais = logging.getLogger(), logging.getLogger("relais")
    before = (root.handlers[:], root.level, relais.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    relais.setLevel(before[2])


def test_a_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="test", colour="green")
    logs.logger("x").info("test.line", number=1, word="é\n", queues=["a"])
    logging.getLogger("somebody.else").warning("cannot reach %s", "amqp://user:secret@host:1/v?x=1")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert {"at", "level", "service", "colour", "logger"} <= set(first)
    assert (first["action"], first["number"], first["word"], first["level"]) == (
        "test.line",
        1,
        "é\n",
        "info",
    )
    assert (second["action"], second["level"]) == ("library.message", "warning")
    assert "secret" not in second["message"]


def test_an_exception_is_told_without_what_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="test", colour="green")
    try:
        int("ann@example.org")
    except ValueError as error:
        logs.logger("x").error("test.failed", exc_info=error)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["error"] == "ValueError"
    assert "ann@" not in line["error_message"]
    assert "Traceback" in line["traceback"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("550 5.1.1 <ann.o'neil+x@example.org> unknown", "550 5.1.1 <[address]> unknown"),
        ("to: ann@example.org, bob@例え.jp;", "to: [address], [address];"),
        ("postgresql+psycopg://relais:p%40ss@127.0.0.1:5432/relais refused", "[address] refused"),
        ("GET https://example.org/x?token=abc failed", "GET https://example.org/x?[query] failed"),
        (
            "(IntegrityError) x [SQL: INSERT] [parameters: {'jobs': 'secret'}]",
            "(IntegrityError) x [SQL: INSERT] [left out]",
        ),
        (
            "duplicate key\nDETAIL:  Key (recipient)=(ann) exists.\nCONTEXT: y",
            "duplicate key\n[left out]\nCONTEXT: y",
        ),
        ("key rls_abcDEF123-_x used", "key [secret] used"),
        ("signed with whsec_AbC+/=", "signed with [secret]"),
        ("why? because a=b", "why? because a=b"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_is_taken_out_of_free_text(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_taking_out_is_quick_whatever_was_written() -> None:
    for evil in (
        "@" * 10**6,
        "a" * 10**6 + "@",
        "://" * 10**6 + "@",
        "?" * 10**6,
        "[parameters: " * 10**5,
        "\n@?=" * 10**5,
        "rls_" * 10**5,
    ):
        began = time.thread_time()
        assert len(redacted(evil)) < 60_000
        assert time.thread_time() - began < 0.5


def test_a_hash_ties_lines_and_tells_nothing() -> None:
    assert logs.hashed(" Ann@Example.org ") == logs.hashed("ann@example.org")
    assert re.fullmatch(r"[0-9a-f]{16}", logs.hashed("ann@example.org"))
