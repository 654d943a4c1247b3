"""DKIM: what we sign, an independent verifier accepts, and nothing that was changed since."""

from __future__ import annotations

import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import dkim as verifier
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.email import composer, dkim
from tasks.email.addresses import Mailbox
from tasks.email.dkim_keys import SigningKey
from tasks.email.mail_merge import Copy, MailMerge
from tasks.email.payload import Attachment, Email
from tasks.errors import PayloadError, SigningKeyError

NOW = datetime.now(UTC)
DOMAIN = "example.org"
ED25519 = SigningKey(DOMAIN, "e2026", ed25519.Ed25519PrivateKey.generate())
RSA = SigningKey(DOMAIN, "r2026", rsa.generate_private_key(65537, 2048))
SIGNER = dkim.Signer([ED25519, RSA])
RECORDS = {record.name: record.value for record in (ED25519.dns_record(), RSA.dns_record())}

MESSAGE = (
    b"From: Relais <hello@example.org>\r\nTo: ada@example.org\r\nSubject: Hello\r\n"
    b"Date: Sat, 21 Nov 2026 09:30:15 +0000\r\nMessage-ID: <1@example.org>\r\n"
    b"List-Unsubscribe: <https://example.org/u>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nX-Note: unsigned\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nHello Ada\r\n"
)

values = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(" \t:;=<"), max_size=60
)
names = st.sampled_from(
    ["From", "TO", "subject", "Sender", "Reply-To", "List-Id", "Received", "X-Note", "Bcc", "Date"]
)
# Folded in places; a line of blanks alone would end the headers for some, so none is made.
folded = st.lists(values, min_size=1, max_size=3).map(
    lambda pieces: "\r\n\t".join(piece if piece.strip() else f"{piece}x" for piece in pieces)
)
fields = st.tuples(names, st.sampled_from(["", " ", "\t", "  "]), folded).map(
    lambda field: f"{field[0]}:{field[1]}{field[2]}\r\n".encode()
)
body_lines = st.one_of(
    st.binary(max_size=80).map(lambda line: re.sub(rb"[\r\n\x00]", b" ", line)),
    st.text(st.sampled_from(" \t.x"), max_size=10).map(str.encode),
)
bodies = st.lists(body_lines, max_size=10).map(
    lambda found: b"".join(line + b"\r\n" for line in found)
)
messages = st.builds(
    lambda before, after, body: b"".join([*before, b"From: a@example.org\r\n", *after, b"\r\n", body]),
    st.lists(fields, max_size=5),
    st.lists(fields, max_size=5),
    bodies,
)  # fmt: skip


def look_up(name: bytes, timeout: int = 5) -> str | None:
    return RECORDS.get(name.decode().rstrip("."))


def verdicts(message: bytes, count: int = 2) -> list[bool]:
    """What the verifier says of each signature, topmost first."""
    return [_verdict(message, index) for index in range(count)]


def _verdict(message: bytes, index: int) -> bool:
    try:
        return bool(verifier.DKIM(message).verify(index, dnsfunc=look_up))
    except (verifier.DKIMException, binascii.Error):
        return False


@given(messages)
@example(b"From: a@example.org\r\n\r\n")
@example(b"From: a@example.org\r\n\r\n \t\r\n\r\n")
@example(b"From:a@example.org\r\nFROM:\t b@example.org\r\n\t x  \r\n\r\n. \r\n\r\n x\t \ty\r\n")
def test_wild_messages_verify(message: bytes) -> None:
    signed = SIGNER.sign(message, at=NOW)
    assert signed.endswith(message)
    assert verdicts(signed) == [True, True]
    assert max(map(len, signed.removesuffix(message).split(b"\r\n"))) <= dkim.LINE_WISH


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=200),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200),
    st.sampled_from([(), (Attachment.model_validate({"filename": "é.pdf", "content": "JVBE" * 60}),)]),
)  # fmt: skip
def test_composed_and_merged_mails_verify(
    text: str, line: str, files: tuple[Attachment, ...]
) -> None:
    sender, to = Mailbox(name=line, address="a@example.org"), Mailbox(address="b@example.org")
    email = Email.model_validate(
        {"from": sender, "to": [to], "subject": line, "text": text, "html": text, "attachments": list(files)}
    )  # fmt: skip
    composed = composer.compose(email, message_id="<1@example.org>", date=NOW)
    assert verdicts(SIGNER.sign(composed, at=NOW)) == [True, True]

    merge = MailMerge(seed="s", from_=sender, attachments=files)
    for subject, html in ((line, text), ("x", text), ("x", None)):
        copy = Copy(to=to, subject=subject, message_id="<1@b>", date=NOW, text=text, html=html)
        merged = merge.message(copy)
        lines = SIGNER.signatures(
            merged.own, merged.body, shared=merged.shared, tail=merged.tail, at=NOW
        )
        assert lines + merged.whole == SIGNER.sign(merged.whole, at=NOW)
        assert verdicts(lines + merged.whole) == [True, True]


def _signed_bytes(signed: bytes) -> list[int]:
    """Where a byte stands on which a signature depends: its own tags, signed values, the body."""
    places = []
    offset = 0
    in_head, covered = True, False
    for line in signed.splitlines(keepends=True):
        start = 0
        if in_head and line[:1] not in {b" ", b"\t"}:
            name, _, _ = line.partition(b":")
            covered = name.lower() in {*dkim.ALWAYS, *dkim.IF_PRESENT}
            start = len(name) + 1
        in_head = in_head and line != b"\r\n"
        if covered or not in_head:
            places += [
                offset + index for index in range(start, len(line)) if not line[index : index + 1].isspace()
            ]  # fmt: skip
        offset += len(line)
    return places


@given(st.data())
def test_a_changed_byte_breaks_every_signature(data: st.DataObject) -> None:
    signed = SIGNER.sign(MESSAGE, at=NOW)
    place = data.draw(st.sampled_from(_signed_bytes(signed)))
    changed = bytearray(signed)
    changed[place] = data.draw(st.sampled_from([b for b in b"#%Aa0" if b != signed[place]]))
    assert verdicts(bytes(changed)) == [False, False]


@given(st.data())
def test_a_changed_signature_breaks_itself_alone(data: st.DataObject) -> None:
    signed = SIGNER.sign(MESSAGE, at=NOW)
    second = signed.index(b"DKIM-Signature", 1)
    place = data.draw(st.sampled_from([i for i in range(16, second) if not signed[i : i + 1].isspace()]))  # fmt: skip
    changed = bytearray(signed)
    changed[place] = ord("#") if signed[place] != ord("#") else ord("%")
    assert verdicts(bytes(changed)) == [False, True]


@pytest.mark.parametrize("at_top", [True, False])
@pytest.mark.parametrize("name", [n.decode() for n in dkim.ALWAYS] + ["List-Unsubscribe", "list-unsubscribe-post"])  # fmt: skip
def test_a_field_added_later_breaks_the_signature(name: str, at_top: bool) -> None:
    signed = SIGNER.sign(MESSAGE, at=NOW)
    field = f"{name}: forged\r\n".encode()
    head, _, body = signed.partition(b"\r\n\r\n")
    forged = field + signed if at_top else head + b"\r\n" + field + b"\r\n" + body
    assert verdicts(signed) == [True, True]
    assert verdicts(forged) == [False, False]


def test_what_relays_do_on_the_way_is_borne() -> None:
    signed = SIGNER.sign(MESSAGE, at=NOW)
    touched = b"Received: from a by b\r\nList-Id: <x>\r\n" + signed.replace(
        b"Subject: Hello\r\n", b"SUBJECT:\r\n\tHello \r\n"
    ).replace(b"X-Note: unsigned", b"X-Note: changed").replace(
        b"Hello Ada\r\n", b"Hello\tAda  \r\n\r\n"
    )
    assert verdicts(touched) == [True, True]


def tags(signature: bytes) -> dict[str, str]:
    value = signature.decode().partition(":")[2]
    pairs = (tag.partition("=") for tag in re.sub(r"\s", "", value).split(";"))
    return {name: text for name, _, text in pairs}


def signatures_of(signed: bytes) -> list[dict[str, str]]:
    lines = signed.removesuffix(MESSAGE)
    return [tags(b"D" + one) for one in re.split(rb"^D", lines, flags=re.MULTILINE)[1:]]


def test_the_tags_say_what_was_promised() -> None:
    signed = dkim.Signer([ED25519, RSA], expires_s=3600).sign(MESSAGE, at=NOW)
    first, second = signatures_of(signed)
    assert (first["a"], second["a"]) == ("ed25519-sha256", "rsa-sha256")
    assert (first["s"], second["s"]) == ("e2026", "r2026")
    for found in (first, second):
        assert list(found) == ["v", "a", "c", "d", "s", "t", "x", "h", "bh", "b"]  # no l=
        assert (found["c"], found["d"]) == ("relaxed/relaxed", DOMAIN)
        assert int(found["x"]) - int(found["t"]) == 3600
        covered = found["h"].split(":")
        for name in ("from", "to", "subject", "list-unsubscribe", "list-unsubscribe-post"):
            assert covered.count(name) == 2
        assert covered.count("reply-to") == covered.count("cc") == 1  # there is none to be had
        assert "x-note" not in covered
    assert "x" not in signatures_of(SIGNER.sign(MESSAGE, at=NOW))[0]


def test_an_expired_signature_is_refused() -> None:
    signer = dkim.Signer([ED25519], expires_s=60)
    assert verdicts(signer.sign(MESSAGE, at=NOW), count=1) == [True]
    assert verdicts(signer.sign(MESSAGE, at=NOW - timedelta(days=2)), count=1) == [False]


def test_the_same_message_gets_the_same_signatures() -> None:
    again = dkim.Signer([ED25519, RSA])
    again.sign(MESSAGE.replace(b"Hello", b"Bye"), at=NOW)  # what it kept of another must not matter
    assert again.sign(MESSAGE, at=NOW) == SIGNER.sign(MESSAGE, at=NOW)
    assert again.sign(MESSAGE, at=NOW + timedelta(seconds=1)) != SIGNER.sign(MESSAGE, at=NOW)


def test_canonical_forms_are_those_of_the_standard() -> None:
    # RFC 6376, 3.4.5 and 3.4.4; the body is that of RFC 8463, appendix A.
    head = b"A: X \r\nB : Y\t\r\n\tZ  \r\n"
    assert dkim.canonical_fields(head) == [(b"a", b"a:X\r\n"), (b"b", b"b:Y Z\r\n")]
    assert dkim.canonical_body(b" C \r\nD \t E\r\n\r\n\r\n") == b" C\r\nD E\r\n"
    assert dkim.canonical_body(b"\r\n \t\r\n") == b""
    body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
    signed = dkim.Signer([ED25519]).sign(b"From: a@b.org\r\n\r\n" + body, at=NOW)
    assert b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n" in signed
    empty = dkim.Signer([ED25519]).sign(b"From: a@b.org\r\n\r\n\r\n", at=NOW)
    assert b" bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n" in empty


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (b"To: a@example.org\r\n\r\nx\r\n", "without From"),
        (b"From: a@example.org\r\n", "end in an empty line"),
        (b"\r\n\r\nFrom: a@example.org\r\n", "end in an empty line"),
        (b" From: a@example.org\r\n\r\n", "end in an empty line"),
        (b"From: a@example.org\r\n\r\nx\ny\r\n", "lines that every relay takes"),
        (b"From: a@example.org\r\n\r\n" + b"x" * 999, "lines that every relay takes"),
        (b"", "end in an empty line"),
    ],
)
def test_what_arrives_altered_is_not_signed(message: bytes, sentence: str) -> None:
    with pytest.raises(PayloadError, match=sentence):
        SIGNER.sign(message, at=NOW)


@pytest.mark.parametrize(
    ("keys", "options", "sentence"),
    [
        ([], {}, "all of one domain"),
        ([ED25519, SigningKey("example.net", "x", ED25519.private)], {}, "all of one domain"),
        ([ED25519, SigningKey(DOMAIN, "e2026", RSA.private)], {}, "have the selector e2026"),
        ([ED25519], {"expires_s": 0}, "expire before"),
    ],
)
def test_signers_that_would_mislead_are_refused(
    keys: list[SigningKey], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SigningKeyError, match=sentence) as refused:
        dkim.Signer(keys, **options)
    assert refused.value.remedy
