"""The recipients of a campaign, read from CSV or from JSON lines while they arrive.

A row is a recipient or is refused with its line, its field and a reason; no row affects another.
What is wrong with the file as a whole (no header, no column of addresses) ends the reading. Only
the row that is being read is in memory: duplicates are found by whoever keeps the recipients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from ledger.addresses import canonical
from tasks.campaigns.csv_rows import ROW_MAX, BrokenRow, CsvRow, CsvRows
from tasks.campaigns.encoding import EncodingError, TextDecoder
from tasks.email.addresses import NAME_MAX, wire_form

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS_MAX = 500
NAME_OF_VARIABLE_MAX = 100
ADDRESS_COLUMNS = frozenset(
    {"email", "e-mail", "mail", "address", "to", "email address", "e-mail address", "email_address"}
)
NAME_COLUMNS = frozenset({"name", "full name", "full_name", "fullname"})
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Recipient:
    """One row that is well: whom to write to, and the values for the template."""

    line: int
    address: str  # as it goes over the wire
    key: str  # the form that all its spellings share
    name: str = ""
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """One row that is not, and why: a sentence about `field` (empty: about the row)."""

    line: int
    field: str
    reason: str


Row = Recipient | Refused


class FileError(ValueError):
    """The file as a whole cannot be read; says where, why and what to do."""

    def __init__(self, sentence: str, *, remedy: str, line: int = 1) -> None:
        super().__init__(f"{sentence} {remedy}")
        self.sentence = sentence
        self.remedy = remedy
        self.line = line


class CsvRecipients:
    """`feed` bytes, get rows; `close` at the end. Raises FileError.

    The first line names the columns. One of them holds the address: the one called
    `address_column`, or else the first that is called email, e-mail, mail, address or to. A column
    called name is shown with the address and is a variable too; all others are variables. An empty
    cell is no value, so that a default may take its place.
    """

    def __init__(self, *, encoding: str | None = None, address_column: str | None = None) -> None:
        """`encoding`: as the upload names it; None: found out."""
        try:
            self._text = TextDecoder(encoding)
        except LookupError:
            sentence = f"There is no encoding {encoding!r}."
            raise FileError(sentence, remedy="Use utf-8.") from None
        self._rows = CsvRows()
        self._wanted = address_column
        self._columns: list[str] = []
        self._address = self._name = -1

    @property
    def variables(self) -> list[str]:
        """The names that rows may give values to; known once the header has been read."""
        return [name for place, name in enumerate(self._columns) if name and place != self._address]

    def feed(self, data: bytes) -> Iterator[Row]:
        """The rows that are whole by now."""
        for row in self._rows.feed(self._decoded(data)):
            yield from self._read(row)

    def close(self) -> Iterator[Row]:
        """The last rows."""
        for row in self._rows.feed(self._decoded(None)):
            yield from self._read(row)
        for row in self._rows.close():
            yield from self._read(row)
        if not self._columns:
            sentence = "The file is empty."
            raise FileError(sentence, remedy="Begin it with a line of column names.")

    def _decoded(self, data: bytes | None) -> str:
        try:
            return self._text.close() if data is None else self._text.feed(data)
        except EncodingError as error:
            remedy = "Save it as UTF-8, or name its encoding: Content-Type: text/csv; charset=..."
            raise FileError(str(error), remedy=remedy) from error

    def _read(self, row: CsvRow | BrokenRow) -> Iterator[Row]:
        if not self._columns:
            self._take_header(row)
        elif isinstance(row, BrokenRow):
            yield Refused(row.line, "", f"The row cannot be read: {row.reason}.")
        else:
            yield self._recipient(row)

    def _take_header(self, row: CsvRow | BrokenRow) -> None:
        if isinstance(row, BrokenRow):
            sentence = f"The line of column names cannot be read: {row.reason}."
            raise FileError(sentence, remedy="Correct it.", line=row.line)
        names = [cell.strip() for cell in row.cells]
        while names and not names[-1]:
            names.pop()  # spreadsheets add delimiters at the end
        self._refuse_header(names, line=row.line)
        folded = [name.casefold() for name in names]
        wanted = {self._wanted.casefold()} if self._wanted else ADDRESS_COLUMNS
        found = [place for place, name in enumerate(folded) if name in wanted]
        if not found:
            named = f"called {self._wanted!r}" if self._wanted else "of addresses"
            shown = ", ".join(name[:40] for name in names[:10])
            sentence = f"There is no column {named} among: {shown}."
            remedy = "Call the column of addresses email, or name it as address_column."
            raise FileError(sentence, remedy=remedy, line=row.line)
        self._address = found[0]
        self._name = next((at for at, name in enumerate(folded) if name in NAME_COLUMNS), -1)
        self._columns = names

    def _refuse_header(self, names: list[str], *, line: int) -> None:
        if any(_is_address(name) for name in names):
            sentence = "The first line holds an address where the names of the columns should be."
            raise FileError(sentence, remedy="Put a line such as email,name before it.", line=line)
        if len(names) > COLUMNS_MAX:
            sentence = f"There are {len(names)} columns; at most {COLUMNS_MAX} are taken."
            raise FileError(sentence, remedy="Leave out those that no template uses.", line=line)
        seen: set[str] = set()
        for place, name in enumerate(names, 1):
            if not name:
                sentence = f"Column {place} has no name."
            elif len(name) > NAME_OF_VARIABLE_MAX or _CONTROLS.search(name):
                sentence = f"The name of column {place} is too long or has control characters."
            elif name.casefold() in seen:
                sentence = f"Two columns are called {name!r}."
            else:
                seen.add(name.casefold())
                continue
            raise FileError(sentence, remedy="Correct the first line.", line=line)

    def _recipient(self, row: CsvRow) -> Row:
        cells = row.cells
        if len(cells) > len(self._columns) and any(cells[len(self._columns) :]):
            reason = f"The row has {len(cells)} values for {len(self._columns)} columns."
            return Refused(row.line, "", reason)
        variables = {}
        for place, (name, cell) in enumerate(zip(self._columns, cells, strict=False)):
            if place != self._address and cell:
                if "\x00" in cell:
                    return Refused(row.line, name, "It must not contain NUL.")
                variables[name] = cell
        address = cells[self._address] if self._address < len(cells) else ""
        shown = cells[self._name] if 0 <= self._name < len(cells) else ""
        column = self._columns[self._address]
        return _made(row.line, column, address, name=shown, variables=variables)


class JsonRecipients:
    """JSON lines: `{"email": ..., "name": ..., "variables": {...}}` each; like CsvRecipients.

    Whatever else an object has beside these three is refused, so that a mistyped `variable` does
    not send a hundred thousand mails without their values.
    """

    FIELDS = frozenset({"email", "name", "variables"})

    def __init__(self) -> None:
        self._rest = b""
        self._line = 0
        self._is_too_long = False

    def feed(self, data: bytes) -> Iterator[Row]:
        """The rows that are whole by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._took(line)
        if len(self._rest) > ROW_MAX:
            self._rest = b""
            self._is_too_long = True

    def close(self) -> Iterator[Row]:
        """The last row, where no line end follows it."""
        if self._rest or self._is_too_long:
            yield from self._took(self._rest)
        self._rest = b""

    def _took(self, line: bytes) -> Iterator[Row]:
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if self._is_too_long or len(line) > ROW_MAX:
            self._is_too_long = False
            yield Refused(self._line, "", f"The line has more than {ROW_MAX:,} bytes.")
        elif line.strip():
            yield self.recipient(self._line, line)

    def recipient(self, number: int, text: bytes) -> Row:
        """The row that the JSON object `text` stands for."""
        try:
            value = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            return Refused(number, "", f"The line is not JSON: {error}.")
        if not isinstance(value, dict):
            return Refused(number, "", 'The line is no object such as {"email": "a@example.org"}.')
        strange = sorted(value.keys() - self.FIELDS)
        if strange:
            reason = "There is no such field; values for the template go into variables."
            return Refused(number, strange[0][:NAME_OF_VARIABLE_MAX], reason)
        variables = value.get("variables", {})
        if not isinstance(variables, dict):
            return Refused(number, "variables", "It is no object.")
        if _has_nul(variables):
            return Refused(number, "variables", "It must not contain NUL.")
        name = value.get("name", "")
        if not isinstance(name, str):
            return Refused(number, "name", "It is no text.")
        return _made(number, "email", value.get("email"), name=name, variables=variables)


def _made(line: int, column: str, given: object, *, name: str, variables: dict[str, Any]) -> Row:
    if not isinstance(given, str) or not given.strip():
        return Refused(line, column, "The address is missing.")
    try:
        address = wire_form(given)
    except ValueError as error:
        return Refused(line, column, f"{error}".rstrip(".") + ".")
    name = " ".join(name.split())
    if len(name) > NAME_MAX or _CONTROLS.search(name):
        reason = f"The name has control characters or more than {NAME_MAX} characters."
        return Refused(line, "name", reason)
    return Recipient(line, address, canonical(address), name, variables)


def _has_nul(value: object) -> bool:
    """Whether any text in `value` has what Postgres does not store."""
    left = [value]
    while left:
        match left.pop():
            case str() as text if "\x00" in text:
                return True
            case dict() as inner:
                left += [*inner, *inner.values()]
            case list() as inner:
                left += inner
    return False


def _is_address(text: str) -> bool:
    if "@" not in text:
        return False
    try:
        wire_form(text)
    except ValueError:
        return False
    return True
