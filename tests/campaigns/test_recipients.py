"""Files of recipients as people have them: read correctly, or refused with line, field and reason."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.campaigns import csv_rows
from tasks.campaigns.recipients import (
    CsvRecipients,
    FileError,
    JsonRecipients,
    Recipient,
    Refused,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ADA = "email,name,city\nada@example.org,Ada,London\nzoe@example.org,Zoë,Zürich\n"


def read(data: bytes | str, reader: CsvRecipients | None = None, *, step: int = 7) -> list[Row]:
    """All rows of `data`, which arrives in crumbs of `step` bytes."""
    whole = data.encode() if isinstance(data, str) else data
    reader = reader or CsvRecipients()
    rows: list[Row] = []
    for start in range(0, len(whole), step):
        rows.extend(reader.feed(whole[start : start + step]))
    return [*rows, *reader.close()]


def good(rows: Iterable[Row]) -> list[Recipient]:
    found = [row for row in rows if isinstance(row, Recipient)]
    assert all(isinstance(row, Recipient) for row in rows), rows
    return found


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_delimiter_and_line_end(encoding: str, delimiter: str, end: str) -> None:
    text = ADA.replace(",", delimiter).replace("\n", end)
    ada, zoe = good(read(text.encode(encoding)))
    assert (ada.address, ada.name, ada.variables["city"], ada.line) == (
        "ada@example.org", "Ada", "London", 2,
    )  # fmt: skip
    assert (zoe.address, zoe.name, zoe.variables["city"], zoe.line) == (
        "zoe@example.org", "Zoë", "Zürich", 3,
    )  # fmt: skip


def test_an_encoding_that_is_named_wins_and_one_that_is_not_known_is_refused() -> None:
    reader = CsvRecipients(encoding="iso-8859-15")
    [row] = good(read("email,price\na@example.org,5 €\n".encode("iso-8859-15"), reader))
    assert row.variables == {"price": "5 €"}
    with pytest.raises(FileError, match="There is no encoding 'klingon'"):
        CsvRecipients(encoding="klingon")


def test_bytes_of_no_encoding_are_told_as_such() -> None:
    with pytest.raises(FileError, match="not utf-8, which it begins as"):
        read("email,name\na@example.org,Zoë\n".encode() + b"b@example.org,Zo\xeb\n")
    with pytest.raises(FileError, match="neither UTF-8 nor Windows-1252"):
        read(b"email,name\na@example.org,\x81\x8d\n")


def test_quoted_cells_hold_delimiters_quotes_and_lines() -> None:
    text = 'email,note\na@example.org,"one, ""two""\nthree"\nb@example.org,x\n'
    first, second = good(read(text))
    assert first.variables == {"note": 'one, "two"\nthree'}
    assert (first.line, second.line) == (2, 4)


def test_a_quote_that_is_never_closed_costs_its_own_row() -> None:
    lines = [f"u{number}@example.org,x" for number in range(1_000)]
    lines[500] = 'u500@example.org,"x'
    rows = read("email,note\n" + "\n".join(lines), step=1_000)
    assert [row for row in rows if isinstance(row, Refused)] == [
        Refused(502, "", "The row cannot be read: its quotes do not match.")
    ]
    assert len(rows) == 1_000


def test_two_broken_quotes_cost_two_rows() -> None:
    text = 'email,note\na@example.org,"x\nb@example.org,y\nc@example.org,"z\nd@example.org,q\n'
    rows = read(text)
    assert [row.line for row in rows if isinstance(row, Refused)] == [2, 4]
    assert [row.address for row in rows if isinstance(row, Recipient)] == [
        "b@example.org", "d@example.org",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The file is empty"),
        ("\n \n", "The file is empty"),
        ("ada@example.org,Ada\nzoe@example.org,Zoë\n", "holds an address where the names"),
        ("name,city\nAda,London\n", "There is no column of addresses among: name, city"),
        ("email,,city\na@example.org,x,y\n", "Column 2 has no name"),
        ("email,Name,name\na@example.org,x,y\n", "Two columns are called 'name'"),
        ("email," + ",".join(f"c{n}" for n in range(600)), "There are 601 columns"),
        (f"email,{'x' * 200}\n", "The name of column 2 is too long"),
        ('email,"x\n', "The line of column names cannot be read"),
    ],
)
def test_what_is_wrong_with_the_whole_file_ends_it(text: str, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence) as caught:
        read(text)
    assert caught.value.remedy


def test_three_hundred_columns_are_many_variables() -> None:
    names = [f"c{number}" for number in range(300)]
    text = f"email,{','.join(names)}\na@example.org,{','.join(str(n) for n in range(300))}\n"
    [row] = good(read(text))
    assert row.variables == {name: str(number) for number, name in enumerate(names)}


def test_the_column_of_addresses_may_be_named() -> None:
    text = "email,billing\na@example.org,b@example.org\n"
    [row] = good(read(text, CsvRecipients(address_column="Billing")))
    assert (row.address, row.variables) == ("b@example.org", {"email": "a@example.org"})
    with pytest.raises(FileError, match="no column called 'nowhere'"):
        read(text, CsvRecipients(address_column="nowhere"))


def test_empty_cells_are_no_values_and_short_rows_are_whole() -> None:
    rows = read("sep=;\nemail;name;city\na@example.org;;\nb@example.org\nc@example.org;C;D;;\n")
    assert [row.variables for row in good(rows)] == [{}, {}, {"name": "C", "city": "D"}]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (",Ada,London", "email", "missing"),
        ("nobody,Ada,London", "email", "is not an email address"),
        ("a@example.org,Ada,London,x", "", "4 values for 3 columns"),
        (f"a@example.org,{'x' * 300},y", "name", "more than 200"),
        ("a@example.org,Ada,Lon\x00don", "city", "NUL"),
        (f"a@example.org,Ada,{'x' * 70_000}", "", "more than 65,536 characters"),
    ],
)
def test_a_bad_row_is_refused_alone(row: str, field: str, reason: str) -> None:
    text = f"email,name,city\nbefore@example.org,,\n{row}\nafter@example.org,,\n"
    before, refused, after = read(text, step=5_000)
    assert isinstance(before, Recipient)
    assert isinstance(after, Recipient)
    assert isinstance(refused, Refused)
    assert (refused.line, refused.field) == (3, field)
    assert reason in refused.reason
    assert after.line == 4


def test_spellings_of_one_address_share_a_key() -> None:
    text = (
        "email\nAda@Example.org\nada@example.ORG\nada@xn--strae-oqa.example\nada@straße.example\n"
    )
    first, second, third, fourth = good(read(text))
    assert first.key == second.key
    assert third.key == fourth.key


def test_a_million_rows_take_no_memory() -> None:
    """A twentieth of them here, which takes as much as all would."""

    def file() -> Iterator[bytes]:
        yield b"email;name\n"
        for start in range(0, 50_000, 1_000):
            yield b"".join(b"u%d@example.org;Ada\n" % n for n in range(start, start + 1_000))

    reader = CsvRecipients()
    tracemalloc.start()
    try:
        count = sum(1 for data in file() for row in reader.feed(data))
        count += sum(1 for row in reader.close())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 50_000
    assert most < 2 * 1_048_576


def test_a_file_that_is_one_endless_line_takes_no_memory() -> None:
    reader = CsvRecipients()
    rows = list(reader.feed(b"email\n"))
    for _ in range(200):
        rows.extend(reader.feed(b'x"' * 20_000))
    rows += [*reader.feed(b"\na@example.org\n"), *reader.close()]
    assert [type(row) for row in rows] == [Refused, Recipient]
    assert [row.line for row in rows] == [2, 3]


CELL = st.text(st.characters(exclude_characters="\x00\r", exclude_categories=["Cs"]), max_size=12)


@given(
    table=st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=8),
    delimiter=st.sampled_from(csv_rows.DELIMITERS),
    step=st.integers(1, 9),
)
def test_what_the_standard_library_writes_is_read_back(
    table: list[list[str]], delimiter: str, step: int
) -> None:
    output = io.StringIO()
    writer = csv.writer(output, delimiter=delimiter, lineterminator="\n")
    writer.writerows([["email", "a", "b"], *(["x@example.org", *cells] for cells in table)])
    rows = good(read(output.getvalue(), CsvRecipients(encoding="utf-8"), step=step))
    expected = [{k: v for k, v in zip("ab", cells, strict=True) if v} for cells in table]
    assert [row.variables for row in rows] == expected


@given(data=st.binary(max_size=300), step=st.integers(1, 50))
def test_no_bytes_break_the_reader(data: bytes, step: int) -> None:
    reader = CsvRecipients()
    rows = [*reader.feed(b"email,a\n")]
    with contextlib.suppress(FileError):
        rows.extend(read(data, reader, step=step))
    assert all(row.line >= 2 for row in rows)


def test_json_lines() -> None:
    lines = [
        b'\xef\xbb\xbf{"email": "a@example.org", "name": "Ada", "variables": {"n": [1, null]}}',
        b"",
        b'{"email": "b@example.org", "variable": {}}',
        b'{"email": 5}',
        b"[1]",
        b"{",
        b'{"email": "c@example.org", "variables": []}',
        b'{"email": "c@example.org", "variables": {"x": ["\\u0000"]}}',
        b'{"email": "c@example.org", "name": "\\ud800"}',
        b'{"email": "c@example.org", "variables": {"x": "' + b"y" * 70_000 + b'"}}',
        b'{"email": "d@example.org"}',
    ]
    reader = JsonRecipients()
    whole = b"\r\n".join(lines)
    rows: list[Row] = []
    for start in range(0, len(whole), 999):
        rows.extend(reader.feed(whole[start : start + 999]))
    rows.extend(reader.close())
    assert rows[0] == Recipient(1, "a@example.org", "a@example.org", "Ada", {"n": [1, None]})
    assert isinstance(rows[-1], Recipient)
    assert rows[-1].line == 11
    refused = [(row.line, row.field) for row in rows if isinstance(row, Refused)]
    assert refused == [
        (3, "variable"), (4, "email"), (5, ""), (6, ""), (7, "variables"), (8, "variables"),
        (9, ""), (10, ""),
    ]  # fmt: skip


@given(value=st.recursive(st.none() | st.text() | st.floats(), st.lists, max_leaves=9))
def test_no_value_breaks_json_lines(value: object) -> None:
    try:
        line = json.dumps({"email": "a@example.org", "variables": {"v": value}}).encode()
    except ValueError:
        return
    [row] = [*(reader := JsonRecipients()).feed(line), *reader.close()]
    assert isinstance(row, Recipient | Refused)
