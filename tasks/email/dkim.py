"""DKIM signatures (RFC 6376, RFC 8463): relaxed/relaxed, the whole body, every key of the domain.

Why not a library: docs/adr/dkim.md.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from tasks.email import dkim_keys, parts
from tasks.email.dkim_keys import SigningKey
from tasks.errors import PayloadError, SigningKeyError

# Signed once more than they occur, even where they do not: adding one breaks the signature. Else
# whoever repeats a signed mail could show another sender or subject than the one that was signed.
ALWAYS = (
    b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"in-reply-to",
    b"references", b"mime-version", b"content-type",
)  # fmt: skip
# The same where they occur. Where they do not, relays and mailing lists may add them.
IF_PRESENT = (
    b"sender", b"content-transfer-encoding", b"list-unsubscribe", b"list-unsubscribe-post",
    b"list-id", b"list-help", b"list-owner", b"list-subscribe", b"list-post", b"list-archive",
    b"feedback-id", b"auto-submitted",
)  # fmt: skip
LINE_WISH = 76
_NAME = (b"DKIM-Signature: ", b"dkim-signature:")


class Signer:
    """Signs for one domain, with each of its keys.

    `expires_s`: how long after its date a signature is valid (`x=`); None: for ever.
    """

    def __init__(self, keys: Sequence[SigningKey], *, expires_s: int | None = None) -> None:
        """Raises SigningKeyError."""
        if len({key.domain for key in keys}) != 1:
            sentence = "A signer needs one or more keys, all of one domain."
            raise SigningKeyError(sentence, remedy="Make a signer for each domain.")
        if expires_s is not None and expires_s <= 0:
            sentence = "Signatures would expire before they are made."
            raise SigningKeyError(sentence, remedy="Let them expire after days, or never.")
        dkim_keys.refuse_doubles(keys)
        self._keys = tuple(keys)
        self._expires_s = expires_s
        # Of the message before; each is replaced as one, so that threads may share a signer.
        self._hashed = (b"", b"", _hash(b""))
        self._tail = (b"", b"")

    def sign(self, message: bytes, *, at: datetime) -> bytes:
        """`message` with its signatures in front. Raises PayloadError where it is none to sign."""
        parts.refuse_unfit(message)
        head, separator, body = message.partition(b"\r\n\r\n")
        if not separator or not head[:1].strip():
            sentence = "The mail does not begin with headers that end in an empty line."
            raise PayloadError(sentence, remedy="Compose it anew.")
        return self.signatures(head + b"\r\n", body, at=at) + message

    def signatures(
        self, own: bytes, body: bytes, *, shared: bytes = b"", tail: bytes = b"", at: datetime
    ) -> bytes:
        """The header lines to put in front of a message; the same arguments give the same bytes.

        `own`, then `shared`: its header fields, whole lines. `body`, then `tail`: its body; a tail
        begins behind a CRLF and says something. What a series of messages has in common is computed
        once: from `shared` and `tail`, and the body's hash where `body` is the same object.
        """
        fields = (*canonical_fields(own), *(_shared_fields(shared) if shared else ()))
        indexes, covered = _coverage(tuple([name for name, _ in fields]))
        data = b"".join([fields[index][1] for index in indexes])
        second = int(at.timestamp())
        until = "" if self._expires_s is None else f" x={second + self._expires_s};"
        end = f" t={second};{until}\r\n {covered}\r\n bh={self._hash_of(body, tail)};\r\n b="
        lines = []
        for key in self._keys:
            start = (
                f"DKIM-Signature: v=1; a={key.algorithm}; c=relaxed/relaxed;\r\n"
                f" d={key.domain};\r\n s={key.selector};{end}"
            ).encode()
            # Itself as it is signed: like any other field, but without b= and the last CRLF.
            canonical = start.replace(b"\r\n ", b" ").replace(*_NAME, 1)
            lines.append(start + _in_lines(b64encode(key.sign(data + canonical))))
        return b"".join(lines)

    def _hash_of(self, body: bytes, tail: bytes) -> str:
        last_body, last_tail, last_hash = self._hashed
        if body is last_body and tail is last_tail:
            return last_hash
        if tail:
            last_tail, canonical_tail = self._tail
            if tail is not last_tail:
                canonical_tail = canonical_body(tail)
                self._tail = (tail, canonical_tail)
            made = _hash(canonical_lines(body), canonical_tail)
        else:
            made = _hash(canonical_body(body))
        self._hashed = (body, tail, made)
        return made


def canonical_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Each header field's name, and the field as it is signed ("relaxed": RFC 6376, 3.4.2)."""
    fields = []
    unfolded = _single_spaced(head.replace(b"\t", b" ").replace(b"\r\n ", b" "))
    for line in unfolded.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name = name.rstrip(b" ").lower()
        fields.append((name, b"%b:%b\r\n" % (name, value.strip(b" "))))
    return fields


def canonical_lines(block: bytes) -> bytes:
    """Lines of a body as they are signed ("relaxed": 3.4.4), empty ones at its end included."""
    block = _single_spaced(block.replace(b"\t", b" "))
    return block.replace(b" \r\n", b"\r\n")


def canonical_body(body: bytes) -> bytes:
    """A whole body as it is signed."""
    said = canonical_lines(body).rstrip(b" \r\n")
    return said + b"\r\n" if said else b""


_shared_fields = lru_cache(maxsize=64)(canonical_fields)


@lru_cache(maxsize=256)
def _coverage(names: tuple[bytes, ...]) -> tuple[list[int], str]:
    """Which of a message's fields are signed, in this order, and the `h=` that says so."""
    if b"from" not in names:
        sentence = "A mail without From cannot be signed."
        raise PayloadError(sentence, remedy="Give it a sender.")
    indexes: list[int] = []
    covered: list[str] = []
    for name in (*ALWAYS, *IF_PRESENT):
        found = [index for index, other in enumerate(names) if other == name]
        if found or name in ALWAYS:
            indexes += reversed(found)  # of several, the last stands for the first mention
            covered += [name.decode()] * (len(found) + 1)
    lines = [f"h={covered[0]}"]
    for word in covered[1:]:
        if len(lines[-1]) + len(word) + 3 > LINE_WISH:
            lines[-1] += ":"
            lines.append(word)
        else:
            lines[-1] += f":{word}"
    return indexes, "\r\n ".join(lines) + ";"


def _single_spaced(block: bytes) -> bytes:
    while b"  " in block:
        block = block.replace(b"  ", b" ")
    return block


def _hash(*pieces: bytes) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return b64encode(digest.digest()).decode()


def _in_lines(encoded: bytes) -> bytes:
    starts = range(0, len(encoded), LINE_WISH - 4)
    return b"\r\n ".join([encoded[at : at + LINE_WISH - 4] for at in starts]) + b"\r\n"
