"""The link by which a recipient unsubscribes with one click (RFC 8058), and its header fields.

The token names tenant, message and, as a keyed hash, the address: it works when the message's row
has long been pruned, and tells no address to a proxy that logs it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID

from ledger.addresses import canonical
from tasks.email.feedback import keys as feedback_keys

MAC_BYTES = 16
HASH_BYTES = 16
TOKEN_MAX = 200
_LABEL = "relais unsubscribe v1"
_VERSION = b"\x01"
_FIXED_BYTES = len(_VERSION) + 16 + HASH_BYTES + MAC_BYTES
_TENANT = re.compile(rb"[a-z0-9][a-z0-9_-]{0,62}")
_ONE_CLICK = "List-Unsubscribe=One-Click"
_FORM_FIELD = re.compile(
    rb'content-disposition:[ \t]*form-data;[ \t]*name="?List-Unsubscribe"?[^\r\n]{0,200}\r?\n'
    rb"(?:[^\r\n]{1,200}\r?\n){0,5}\r?\nOne-Click\r?\n",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Link:
    """Who unsubscribes from what."""

    tenant: str
    message_id: UUID
    address_hash: bytes
    key: bytes = field(repr=False, compare=False)

    def is_of(self, address: str) -> bool:
        """Whether the link was made for `address`, in whatever spelling."""
        return hmac.compare_digest(_hash(self.key, address), self.address_hash)


def make(setting: str, *, tenant: str, message_id: UUID, address: str) -> str:
    """The token of one message to one address; only letters that a URL takes as they are.

    `setting`: RELAIS_CALLBACK_SECRET; SettingsError where it is empty.
    """
    key = feedback_keys.newest(_keys(setting, tenant))
    body = _VERSION + message_id.bytes + _hash(key, address) + tenant.encode()
    return base64.urlsafe_b64encode(body + _mac(key, body)).decode().rstrip("=")


def read(setting: str, token: str) -> Link | None:
    """What `token` says; None where no secret of ours signed it."""
    signed = _decoded(token)
    body, mac = signed[:-MAC_BYTES], signed[-MAC_BYTES:]
    tenant = body[17 + HASH_BYTES :]
    if len(signed) <= _FIXED_BYTES or body[:1] != _VERSION or not _TENANT.fullmatch(tenant):
        return None
    name = tenant.decode()
    for key in _keys(setting, name):
        if hmac.compare_digest(_mac(key, body), mac):
            return Link(name, UUID(bytes=body[1:17]), body[17 : 17 + HASH_BYTES], key)
    return None


def header_values(*, base_url: str, token: str, mailto: str | None = None) -> dict[str, str]:
    """The header fields of a mail: `List-Unsubscribe` and `List-Unsubscribe-Post`.

    `base_url` must be https (RFC 8058 section 3.1), otherwise ValueError; the token is appended to
    its path. `mailto`: an address that takes unsubscriptions as well (RFC 2369); it is given the
    token as the subject. Mail providers heed the fields only where a DKIM signature covers both.
    """
    parts = urlsplit(base_url)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        message = f"{base_url[:80]!r} is no https URL without query: one click needs one"
        raise ValueError(message)
    if not base_url.isascii() or re.search(r"[<>\s\x00-\x1f\x7f]", base_url):
        message = "The URL for unsubscribing has characters that a header cannot hold."
        raise ValueError(message)
    value = f"<{base_url.rstrip('/')}/{token}>"
    if mailto is not None:
        value += f", <mailto:{quote(mailto, safe='@')}?subject={token}>"
    return {"List-Unsubscribe": value, "List-Unsubscribe-Post": _ONE_CLICK}


def is_one_click(*, content_type: str, body: bytes) -> bool:
    """Whether a POST is the one of RFC 8058: scanners of links send GET, or an empty body."""
    if content_type.lower().startswith("multipart/form-data"):
        return bool(_FORM_FIELD.search(body[:2_000]))
    try:
        pairs = parse_qsl(body[:2_000].decode("latin-1"), max_num_fields=10)
    except ValueError:
        return False
    return ("List-Unsubscribe", "One-Click") in pairs


def _keys(setting: str, tenant: str) -> tuple[bytes, ...]:
    return feedback_keys.derive(setting, label=_LABEL, names=(tenant,))


def _hash(key: bytes, address: str) -> bytes:
    words = b"address\n" + canonical(address).encode("utf-8", "surrogatepass")
    return hmac.digest(key, words, hashlib.sha256)[:HASH_BYTES]


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"link\n" + body, hashlib.sha256)[:MAC_BYTES]


def _decoded(token: str) -> bytes:
    if len(token) > TOKEN_MAX or not token.isascii():
        return b""
    try:
        signed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
    # One spelling only: the spare bits of the last letter could be varied.
    return signed if base64.urlsafe_b64encode(signed).decode().rstrip("=") == token else b""
