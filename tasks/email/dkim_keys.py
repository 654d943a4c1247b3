"""DKIM keys: read from PEM, refused with a sentence, and the DNS record that belongs to each."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from tasks.errors import SigningKeyError

RSA_BITS_MIN = 1024  # RFC 8301: less must not be used, ...
RSA_BITS_MAX = 4096  # ... and receivers need not be able to check more
TXT_STRING_MAX = 255  # bytes in one string of a TXT record (RFC 1035)
PEM_MAX = 5_000  # with room to spare; to check a key of many bits takes seconds
DOMAIN_MAX = 253

_ED25519 = "Make one with `openssl genpkey -algorithm ed25519`"
_RSA = "Make one with `openssl genrsa 2048`"
_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_SELECTOR = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_FRAME = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")
_PADDING = padding.PKCS1v15()
_SHA256 = hashes.SHA256()

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """The TXT record by which receivers find a public key."""

    name: str
    value: str

    @property
    def strings(self) -> list[str]:
        """`value` in the pieces that a TXT record is made of; receivers put them together again."""
        starts = range(0, len(self.value), TXT_STRING_MAX)
        return [self.value[start : start + TXT_STRING_MAX] for start in starts]

    @property
    def zone_line(self) -> str:
        """The record as a line of a zone file."""
        quoted = " ".join(f'"{text}"' for text in self.strings)
        return f"{self.name}. IN TXT ( {quoted} )"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, the domain it signs for, and the selector under which its half is found."""

    domain: str
    selector: str
    private: PrivateKey = field(repr=False)

    @property
    def algorithm(self) -> str:
        """The name of the algorithm in a signature's `a=`."""
        return f"{self._kind}-sha256"

    @property
    def _kind(self) -> str:
        return "rsa" if isinstance(self.private, rsa.RSAPrivateKey) else "ed25519"

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`; the same data give the same signature."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, _PADDING, _SHA256)
        # RFC 8463: what Ed25519 signs is the hash
        return self.private.sign(hashlib.sha256(data).digest())

    def dns_record(self) -> DnsRecord:
        """What has to stand in DNS before the first signed mail goes out."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            raw = public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        else:
            raw = public.public_bytes_raw()
        value = f"v=DKIM1; k={self._kind}; p={base64.b64encode(raw).decode()}"
        return DnsRecord(f"{self.selector}._domainkey.{self.domain}", value)


def parse(pem: str, *, domain: str, selector: str, passphrase: str | None = None) -> SigningKey:
    """The key in `pem` (PKCS#8 or PKCS#1). Raises SigningKeyError."""
    domain, selector = domain.lower(), selector.lower()
    _refuse_names(domain, selector)
    private = _loaded(pem.strip(), passphrase)
    if isinstance(private, rsa.RSAPrivateKey):
        _refuse_size(private.key_size)
    elif not isinstance(private, ed25519.Ed25519PrivateKey):
        sentence = f"DKIM has no signatures by {_kind_of(private)} keys."
        raise SigningKeyError(sentence, remedy=f"{_ED25519}, or an RSA key.")
    return SigningKey(domain, selector, private)


def refuse_doubles(keys: Sequence[SigningKey]) -> None:
    """SigningKeyError where two keys would be looked up under the same name."""
    names = [(key.domain, key.selector) for key in keys]
    for domain, selector in names:
        if names.count((domain, selector)) > 1:
            sentence = f"Two keys of {domain} have the selector {selector}."
            raise SigningKeyError(sentence, remedy="Give each key a selector of its own.")


def _refuse_names(domain: str, selector: str) -> None:
    if not _DOMAIN.fullmatch(domain) or len(domain) > DOMAIN_MAX:
        sentence = f"{domain[:80]!r} is no domain that mail is signed for."
        raise SigningKeyError(sentence, remedy="Write it as in DNS: example.org, xn--bcher-kva.ch.")
    if not _SELECTOR.fullmatch(selector):
        sentence = f"{selector[:80]!r} is no selector."
        raise SigningKeyError(sentence, remedy="Use letters, digits and -, such as relais-2026.")
    if len(f"{selector}._domainkey.{domain}") > DOMAIN_MAX:
        sentence = f"The name {selector}._domainkey.{domain} is too long for DNS."
        raise SigningKeyError(sentence, remedy="Use a shorter selector.")


def _refuse_size(bits: int) -> None:
    if bits < RSA_BITS_MIN:
        sentence = f"An RSA key of {bits} bits is too short: receivers reject its signatures."
        raise SigningKeyError(sentence, remedy=f"{_RSA}.")
    if bits > RSA_BITS_MAX:
        sentence = f"An RSA key of {bits} bits is too long: receivers need not check it."
        raise SigningKeyError(sentence, remedy=f"{_RSA}.")


def _loaded(pem: str, passphrase: str | None) -> object:
    _refuse_other_than_private(pem)
    secret = passphrase.encode() if passphrase else None
    try:
        return serialization.load_pem_private_key(pem.encode(), secret)
    except TypeError as error:  # which of the two, cryptography says by words alone
        if secret is None:
            sentence = "The private key is encrypted, and no passphrase was given."
            remedy = "Give its passphrase, or decrypt it with `openssl pkey -in key.pem`."
        else:
            sentence = "A passphrase was given, but the private key is not encrypted."
            remedy = "Leave the passphrase out."
        raise SigningKeyError(sentence, remedy=remedy) from error
    except UnsupportedAlgorithm as error:
        sentence = "The private key is of a kind, or encrypted in a way, that is not supported."
        raise SigningKeyError(sentence, remedy=f"{_ED25519}.") from error
    except ValueError as error:
        if secret is not None:
            sentence = "The private key cannot be decrypted: wrong passphrase, or a damaged key."
            remedy = "Check both with `openssl pkey -in key.pem -noout`."
        else:
            sentence = "The private key cannot be read: it is damaged or cut short."
            remedy = "Paste the whole file; `openssl pkey -in key.pem -noout` must accept it."
        raise SigningKeyError(sentence, remedy=remedy) from error


def _refuse_other_than_private(pem: str) -> None:
    if len(pem) > PEM_MAX:
        sentence = f"The private key has more than {PEM_MAX} characters."
        remedy = f"Paste the key alone; an RSA key may have {RSA_BITS_MAX} bits."
        raise SigningKeyError(sentence, remedy=remedy)
    label = _FRAME.search(pem)
    kind = label[1] if label else ""
    if not pem.isascii() or not kind:
        sentence = "The private key is not in PEM form."
        remedy = "Paste the whole file, from -----BEGIN PRIVATE KEY----- to its END line."
    elif "\\n" in pem and "\n" not in pem:
        sentence = "The private key has \\n written out where its lines should end."
        remedy = "Replace each by a real line break."
    elif len(_FRAME.findall(pem)) > 1:
        sentence = "More than one key or certificate was given."
        remedy = "Paste the private key alone."
    elif kind.endswith("PUBLIC KEY"):
        sentence = "This is a public key; signing needs the private one."
        remedy = "Paste the file that begins with -----BEGIN PRIVATE KEY-----."
    elif "CERTIFICATE" in kind:
        sentence = "This is a certificate; signing needs a private key."
        remedy = "Paste the file that begins with -----BEGIN PRIVATE KEY-----."
    elif kind == "OPENSSH PRIVATE KEY":
        sentence = "This is an SSH key."
        remedy = f"{_ED25519}."
    else:
        return
    raise SigningKeyError(sentence, remedy=remedy)


def _kind_of(private: object) -> str:
    return type(private).__name__.removesuffix("PrivateKey")
