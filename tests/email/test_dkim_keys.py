"""DKIM keys: what is accepted, what is refused and how it is put right, and what goes into DNS."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import dkim as verifier
import dns.rdata
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tasks.email import dkim, dkim_keys
from tasks.errors import SigningKeyError

MESSAGE = b"From: a@example.org\r\n\r\nHello\r\n"
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
PKCS8, PKCS1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL


def rsa_of(p: int, q: int) -> rsa.RSAPrivateKey:
    """A key of two primes: cryptography makes none that is too short, and takes long for others."""
    d = pow(65537, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=d % (p - 1),
        dmq1=d % (q - 1),
        iqmp=pow(q, -1, p),
        public_numbers=rsa.RSAPublicNumbers(65537, p * q),
    ).private_key()


def pem(
    private: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    form: serialization.PrivateFormat = PKCS8,
    passphrase: str | None = None,
) -> str:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    return private.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


PUBLIC = (
    RSA.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
PLAIN = pem(ED25519)


def parse(text: str, passphrase: str | None = None) -> dkim_keys.SigningKey:
    return dkim_keys.parse(text, domain="example.org", selector="s1", passphrase=passphrase)


@pytest.mark.parametrize(
    ("text", "passphrase"),
    [
        (PLAIN, None),
        (pem(RSA), None),
        (pem(RSA, PKCS1), None),
        (pem(ED25519, passphrase="straße"), "straße"),
        (pem(RSA, passphrase="x"), "x"),
        (f"\n  {PLAIN}\n\n".replace("\n", "\r\n"), None),
        (PLAIN, ""),
    ],
    ids=["ed25519", "rsa", "rsa-pkcs1", "encrypted-ed25519", "encrypted-rsa", "crlf", "no-phrase"],
)
def test_a_key_signs_and_its_record_verifies(text: str, passphrase: str | None) -> None:
    key = parse(text, passphrase)
    signed = dkim.Signer([key]).sign(MESSAGE, at=datetime.now(UTC))
    record = key.dns_record()
    zone = {f"{record.name}.": record.value}
    assert verifier.verify(signed, dnsfunc=lambda name, timeout: zone.get(name.decode()))


@pytest.mark.parametrize(
    ("text", "passphrase", "sentence", "remedy"),
    [
        ("", None, "not in PEM form", "Paste the whole file"),
        (base64.b64encode(b"x" * 32).decode(), None, "not in PEM form", "Paste the whole file"),
        (f"é{PLAIN}", None, "not in PEM form", "Paste the whole file"),
        (PLAIN.replace("\n", "\\n"), None, "written out", "real line break"),
        (PLAIN[:60], None, "damaged or cut short", "Paste the whole file"),
        (PLAIN * 2, None, "More than one key", "private key alone"),
        (PLAIN + "x" * 5_000, None, "more than 5000 characters", "key alone"),
        (PUBLIC, None, "public key", "BEGIN PRIVATE KEY"),
        (PLAIN.replace("PRIVATE KEY", "CERTIFICATE"), None, "certificate", "BEGIN PRIVATE KEY"),
        (PLAIN.replace("PRIVATE", "OPENSSH PRIVATE"), None, "SSH key", "openssl genpkey"),
        (pem(ec.generate_private_key(ec.SECP256R1())), None, "by EC keys", "openssl genpkey"),
        (pem(ED25519, passphrase="x"), None, "no passphrase was given", "Give its passphrase"),
        (pem(ED25519, passphrase="x"), "y", "wrong passphrase", "openssl pkey"),
        (PLAIN, "y", "not encrypted", "Leave the passphrase out"),
        (pem(rsa_of(2**607 - 1, 2**127 - 1)), None, "734 bits is too short", "openssl genrsa 2048"),
    ],
    # The keys are new in every process, and so would be the names.
    ids=[
        "empty",
        "base64",
        "no-ascii",
        "written-out",
        "cut",
        "two",
        "long",
        "public",
        "certificate",
        "ssh",
        "ec",
        "no-passphrase",
        "wrong-passphrase",
        "needless-passphrase",
        "short-rsa",
    ],
)
def test_what_is_no_key_is_refused_with_a_remedy(
    text: str, passphrase: str | None, sentence: str, remedy: str
) -> None:
    with pytest.raises(SigningKeyError, match=sentence) as refused:
        parse(text, passphrase)
    assert remedy in refused.value.remedy
    assert not any(line in str(refused.value) for line in text.split() if len(line) > 20)


def test_an_rsa_key_that_receivers_need_not_check_is_refused() -> None:
    with pytest.raises(SigningKeyError, match="4484 bits is too long"):
        parse(pem(rsa_of(2**2281 - 1, 2**2203 - 1)))


@pytest.mark.parametrize(
    ("domain", "selector", "sentence"),
    [
        ("example", "s1", "is no domain"),
        ("bücher.example", "s1", "is no domain"),
        ("example.org; l=0", "s1", "is no domain"),
        ("example.org\r\n", "s1", "is no domain"),
        (("x" * 60 + ".") * 5 + "org", "s1", "is no domain"),
        ("example.org", "", "is no selector"),
        ("example.org", "s1._domainkey.", "is no selector"),
        ("example.org", "s 1", "is no selector"),
        ("example.org", ".".join(["x" * 60] * 4), "too long for DNS"),
    ],
)
def test_names_that_dns_cannot_hold_are_refused(domain: str, selector: str, sentence: str) -> None:
    with pytest.raises(SigningKeyError, match=sentence) as refused:
        dkim_keys.parse(PLAIN, domain=domain, selector=selector)
    assert refused.value.remedy


def test_names_are_compared_as_dns_does() -> None:
    key = dkim_keys.parse(PLAIN, domain="Mail.Example.ORG", selector="S1.eu")
    assert key.dns_record().name == "s1.eu._domainkey.mail.example.org"


def test_the_record_is_that_of_the_standard() -> None:
    # RFC 8463, appendix A.2
    raw = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(raw)
    key = dkim_keys.parse(pem(private), domain="football.example.com", selector="brisbane")
    record = key.dns_record()
    assert record.name == "brisbane._domainkey.football.example.com"
    assert record.value == "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    assert record.strings == [record.value]


@pytest.mark.parametrize("text", [PLAIN, pem(RSA), pem(rsa_of(2**2203 - 1, 2**1279 - 1))])
def test_a_zone_line_says_the_same_in_strings_that_fit(text: str) -> None:
    record = parse(text).dns_record()
    assert all(len(string) <= 255 for string in record.strings)
    name, _, rest = record.zone_line.partition(". IN TXT ")
    data = dns.rdata.from_text("IN", "TXT", rest.strip("() "))
    assert name == record.name
    assert b"".join(data.strings).decode() == record.value  # type: ignore[attr-defined]


def test_a_key_does_not_show_itself() -> None:
    assert "private" not in repr(parse(PLAIN)).lower()
