"""One mail for many recipients: what they share is composed once, the rest filled in.

The result reads like what `composer.compose` makes of the same mail, with boundaries that all
recipients share. It depends on the seed and the copy alone: every attempt, in any process, sends
the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from tasks.email import headers as header_fields
from tasks.email import invites, parts
from tasks.email.addresses import Mailbox
from tasks.email.parts import Part
from tasks.email.payload import Attachment
from tasks.errors import PayloadError

_SLOT = re.compile(rb"\x00([a-z]+)\r\n")  # no part of ours contains NUL
_UNSUBSCRIBE = ("list-unsubscribe", "list-unsubscribe-post")
_date = lru_cache(maxsize=64)(header_fields.date)


@dataclass(frozen=True, slots=True)
class Copy:
    """What one recipient's mail has of its own.

    `unsubscribe`: URIs for List-Unsubscribe, https (then one POST to it is enough) and mailto.
    """

    to: Mailbox
    subject: str
    message_id: str
    date: datetime
    text: str | None = None
    html: str | None = None
    unsubscribe: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """One message. `shared` and `tail` are the same objects in all messages of a merge.

    So is `body` where the texts are those of the message before: what was computed from it (its
    hash) holds.
    """

    own: bytes
    shared: bytes
    body: bytes
    tail: bytes

    @property
    def whole(self) -> bytes:
        """The message as it goes over the wire, before dots are doubled."""
        return b"".join((self.own, self.shared, b"\r\n", self.body, self.tail))


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the texts. `headers` is empty where the only text is the whole body."""

    headers: bytes
    before: bytes
    between: bytes
    after: bytes


class MailMerge:
    """A mail whose recipients, subject and texts are still to come.

    `seed` makes the boundaries: it has to be the same at every attempt.
    """

    def __init__(
        self,
        *,
        seed: str,
        from_: Mailbox,
        reply_to: Sequence[Mailbox] = (),
        headers: Mapping[str, str] | None = None,
        attachments: Sequence[Attachment] = (),
        calendar: str | None = None,
    ) -> None:
        """`calendar` as in the payload, checked. PayloadError where a header cannot be set."""
        digest = hashlib.blake2b(seed.encode(), digest_size=15).hexdigest()
        self._start = f"{parts.BOUNDARY_START}{digest}"
        self._never = self._start.encode()
        self._attachments = attachments
        self._calendar = invites.part(calendar, never=self._never) if calendar else None
        self._names = frozenset(name.lower() for name in headers or {})
        customs = "".join(_custom(name, value) for name, value in (headers or {}).items())
        self._shared = {
            utf8: _senders(from_, reply_to, utf8=utf8) + customs for utf8 in (False, True)
        }
        self._frames: dict[tuple[str, ...], _Frame] = {}
        self._heads: dict[tuple[tuple[str, ...], str, bool], bytes] = {}
        # Of the message before; each pair is replaced as one, so that threads may share a merge.
        self._parts: dict[str, tuple[str, Part]] = {}
        self._body: tuple[tuple[bytes, ...], bytes] = ((), b"")

    def message(self, copy: Copy, *, utf8: bool = False) -> Merged:
        """The message of `copy`; `utf8` as in `composer.compose`. Raises PayloadError."""
        own = self._own(copy, utf8=utf8)
        texts = {
            subtype: self._text(subtype, content)
            for subtype, content in (("plain", copy.text), ("html", copy.html))
            if content is not None
        }
        subtypes = tuple(texts)
        frame = self._frame(subtypes)
        # Where the only text is the whole body, its encoding stands among the message's headers.
        content = "" if frame.headers else texts[subtypes[0]].headers
        key = (subtypes, content, utf8)
        if key not in self._heads:
            self._heads[key] = self._head(frame, content, utf8=utf8)
        shared = self._heads[key]
        body = self._filled(frame, list(texts.values()))
        parts.refuse_unfit(b"".join((own, shared, b"\r\n", body)))
        return Merged(own, shared, body, frame.after)

    def _own(self, copy: Copy, *, utf8: bool) -> bytes:
        lines = [
            _date(copy.date),
            header_fields.addresses("To", [copy.to], utf8=utf8),
            header_fields.unstructured("Subject", copy.subject),
            f"Message-ID: {copy.message_id}\r\n",
        ]
        if copy.unsubscribe:
            lines.append(header_fields.unsubscribe(copy.unsubscribe))
        if copy.headers:
            lines.extend(_custom(name, value) for name, value in copy.headers.items())
        if copy.headers or (copy.unsubscribe and self._names):
            self._refuse_twice(copy)
        return "".join(lines).encode()

    def _refuse_twice(self, copy: Copy) -> None:
        names = [name.lower() for name in copy.headers]
        if copy.unsubscribe:
            names += _UNSUBSCRIBE
        for name in names:
            if name in self._names or names.count(name) > 1:
                sentence = f"The header {name} would be set twice."
                raise PayloadError(sentence, remedy="Set it for the mail or for the recipient.")

    def _text(self, subtype: str, content: str) -> Part:
        before = self._parts.get(subtype)
        if before is not None and before[0] == content:
            return before[1]
        part = parts.text(subtype, content, never=self._never)
        self._parts[subtype] = (content, part)
        return part

    def _frame(self, subtypes: tuple[str, ...]) -> _Frame:
        if subtypes not in self._frames:
            self._frames[subtypes] = self._framed(subtypes)
        return self._frames[subtypes]

    def _framed(self, subtypes: tuple[str, ...]) -> _Frame:
        if not subtypes:
            sentence = "A mail needs text or html."
            raise PayloadError(sentence, remedy="Give one of them or both.")
        root = parts.tree(
            text=Part("\x00plain", b"") if "plain" in subtypes else None,
            html=Part("\x00html", b"") if "html" in subtypes else None,
            calendar=self._calendar,
            attachments=self._attachments,
            boundary=lambda level, _: f"{self._start}{level[0]}",
        )
        if root.headers.startswith("\x00"):
            return _Frame(b"", b"", b"", b"")
        # before, subtype, [between, subtype,] after
        pieces = _SLOT.split(root.body)
        between = pieces[2] if len(pieces) > 3 else b""
        after = pieces[-1].removeprefix(b"\r\n")  # the line's end belongs to the body before it
        parts.refuse_unfit(root.headers.encode() + pieces[0] + between + after)
        return _Frame(root.headers.encode(), pieces[0], between, after)

    def _head(self, frame: _Frame, content: str, *, utf8: bool) -> bytes:
        head = f"{self._shared[utf8]}MIME-Version: 1.0\r\n{content}"
        return head.encode() + frame.headers

    def _filled(self, frame: _Frame, texts: Sequence[Part]) -> bytes:
        if not frame.headers:
            pieces = [texts[0].body]
            if texts[0].body and not texts[0].body.endswith(b"\r\n"):
                pieces.append(b"\r\n")
        else:
            pieces = [frame.before]
            for part in texts:
                pieces += [part.headers.encode(), b"\r\n", part.body, frame.between]
            pieces[-1] = b"\r\n"
        filled, body = self._body
        if filled != tuple(pieces):
            body = b"".join(pieces)
            self._body = (tuple(pieces), body)
        return body


def _senders(from_: Mailbox, reply_to: Sequence[Mailbox], *, utf8: bool) -> str:
    lines = header_fields.addresses("From", [from_], utf8=utf8)
    return lines + (header_fields.addresses("Reply-To", reply_to, utf8=utf8) if reply_to else "")


def _custom(name: str, value: str) -> str:
    sentence = header_fields.refusal(name, value)
    if sentence:
        raise PayloadError(sentence, remedy="Correct the header.")
    return header_fields.custom(name, value)
