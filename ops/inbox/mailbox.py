"""What the inbox accepted, deferred and refused: durable, counted, looked up.

One line of the journal is one delivery (a mail to one recipient) or one deferral or refusal.
In memory a delivery costs 36 bytes of index and one entry in the set that finds duplicates.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pydantic_core import from_json, to_json

from ops.inbox.journal import Journal, JournalFullError, Line
from ops.inbox.mail import Envelope, Header

INLINE_MAX_BYTES = 65_536  # larger mails lie in a file of their own


def _key(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Search:
    """Conditions that a delivery meets all of; empty ones do not count."""

    recipient: str = ""
    recipient_domain: str = ""
    message_id: str = ""
    text: str = ""  # in subject, sender or recipient; any case


class Mailbox:
    """Everything under one data folder: `mails.jsonl` and `raw/`."""

    def __init__(self, data_dir: Path) -> None:
        """Open or make the mailbox and read its counts back from disk."""
        self._raw_dir = data_dir / "raw"
        self._raw_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._offsets = array("Q")
        self._sizes = array("I")
        self._recipients = array("Q")
        self._domains = array("Q")
        self._message_ids = array("Q")
        self._seen: set[int] = set()  # (Message-ID, recipient)
        self._turned_away = {"deferred": array("Q"), "refused": array("Q")}  # domains
        self._deferred_once: set[int] = set()
        self._journal = Journal(data_dir / "mails.jsonl")
        for line, data in self._journal.lines():
            self._index(line, from_json(data))

    async def accept(self, envelope: Envelope, header: Header, raw: bytes) -> None:
        """Keep `raw` once per recipient; return when it is on disk.

        Raises JournalFullError where the disk is full; nothing was kept then.
        """
        kept = await self._keep(raw)
        received_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        records = [
            {
                "event": "accepted",
                "received_at": received_at,
                "sender": envelope.sender,
                "recipient": recipient,
                "message_id": header.message_id or f"(none) {hashlib.sha256(raw).hexdigest()}",
                "subject": header.subject,
                "size": len(raw),
                "helo": envelope.helo,
                **kept,
            }
            for recipient in envelope.recipients
        ]
        await self._append(records)

    async def turn_away(
        self, event: str, recipient: str, *, reply: str, message_id: str = ""
    ) -> None:
        """Remember that `recipient` was `deferred` or `refused` with `reply`."""
        record = {
            "event": event,
            "received_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "recipient": recipient,
            "message_id": message_id,
            "reply": reply,
        }
        await self._append([record])

    def was_deferred(self, message_id: str, recipient: str) -> bool:
        """Whether this mail to this recipient was put off before."""
        return _key(message_id, recipient.lower()) in self._deferred_once

    def stats(self, recipient_domain: str = "") -> dict[str, int]:
        """Counts of everything, or of one recipient domain."""
        deferred, refused = self._turned_away["deferred"], self._turned_away["refused"]
        if not recipient_domain:
            messages, distinct = len(self._offsets), len(self._seen)
            turned = {"refused": len(refused), "deferred": len(deferred)}
        else:
            key = _key(recipient_domain.lower())
            rows = [row for row, domain in enumerate(self._domains) if domain == key]
            messages = len(rows)
            distinct = len({(self._message_ids[row], self._recipients[row]) for row in rows})
            turned = {"refused": refused.count(key), "deferred": deferred.count(key)}
        return {
            "messages": messages,
            "distinct": distinct,
            "duplicates": messages - distinct,
            **turned,
        }

    def search(
        self, search: Search, *, limit: int, skip: int = 0
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many deliveries match, and the newest `limit` after `skip`, without their text."""
        rows = list(self._matching(search))
        newest = rows[::-1][skip : skip + limit]
        found = []
        for row in newest:
            record = self._record(row)
            found.append({"n": row + 1, **{name: record[name] for name in _SHOWN}})
        return len(rows), found

    def raw(self, n: int) -> bytes | None:
        """The text of delivery `n` (from 1) as it came, dots unstuffed; None: no such."""
        if not 1 <= n <= len(self._offsets):
            return None
        record = self._record(n - 1)
        if "raw_path" in record:
            raw_path: str = record["raw_path"]
            return (self._raw_dir / raw_path).read_bytes()
        raw: str = record["raw"]
        return b64decode(raw)

    async def close(self) -> None:
        """Write what is waiting and let go of the files."""
        await self._journal.close()

    def _matching(self, search: Search) -> Iterator[int]:
        tests: list[tuple[array[int], int]] = []
        if search.recipient:
            tests.append((self._recipients, _key(search.recipient.lower())))
        if search.recipient_domain:
            tests.append((self._domains, _key(search.recipient_domain.lower())))
        if search.message_id:
            tests.append((self._message_ids, _key(search.message_id)))
        for row in range(len(self._offsets)):
            if all(column[row] == key for column, key in tests) and (
                not search.text or self._contains(row, search.text.casefold())
            ):
                yield row

    def _contains(self, row: int, text: str) -> bool:
        record = self._record(row)
        return any(text in record[name].casefold() for name in ("subject", "sender", "recipient"))

    def _record(self, row: int) -> dict[str, Any]:
        data = self._journal.read(Line(self._offsets[row], self._sizes[row]))
        record: dict[str, Any] = from_json(data)
        return record

    async def _append(self, records: list[dict[str, Any]]) -> None:
        def durable(lines: Sequence[Line]) -> None:
            for line, record in zip(lines, records, strict=True):
                self._index(line, record)

        await self._journal.append([to_json(record) + b"\n" for record in records], durable=durable)

    def _index(self, line: Line, record: dict[str, Any]) -> None:
        recipient = record["recipient"].lower()
        domain = _key(_domain(recipient))
        seen = _key(record["message_id"], recipient)
        if record["event"] != "accepted":
            self._turned_away[record["event"]].append(domain)
            if record["event"] == "deferred" and record["message_id"]:
                self._deferred_once.add(seen)
            return
        self._offsets.append(line.offset)
        self._sizes.append(line.size)
        self._recipients.append(_key(recipient))
        self._domains.append(domain)
        self._message_ids.append(_key(record["message_id"]))
        self._seen.add(seen)

    async def _keep(self, raw: bytes) -> dict[str, str]:
        if len(raw) <= INLINE_MAX_BYTES:
            return {"raw": b64encode(raw).decode()}
        name = f"{hashlib.sha256(raw).hexdigest()}.eml"
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, _write_durably, self._raw_dir / name, raw)
        return {"raw_path": name}


_SHOWN = ("received_at", "sender", "recipient", "message_id", "subject", "size")


def _write_durably(path: Path, raw: bytes) -> None:
    """Write `raw` under its final name, all or nothing, before the journal speaks of it."""
    try:
        with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            part.write(raw)
            part.flush()
            os.fsync(part.fileno())
        Path(part.name).replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        message = f"{path.parent} cannot take another mail: {error.strerror}."
        raise JournalFullError(message, remedy="Free some disk space.") from error
