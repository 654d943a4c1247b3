"""The few words of Postgres' protocol that a supervisor needs: log in with SCRAM, ask, read text.

A driver would double the supervisor's memory for two statements a second. It
speaks to the stack's own server on 127.0.0.1 only; any other database is asked
through psycopg. Protocol 3.0, RFC 5802 and RFC 7677.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import socket
import struct
from urllib.parse import unquote, urlsplit

Row = tuple[str | None, ...]

_PROTOCOL = 196_608  # 3.0
_AUTH_OK, _AUTH_SASL, _AUTH_CONTINUE, _AUTH_FINAL = 0, 10, 11, 12
_MECHANISM = b"SCRAM-SHA-256"
_NULL = -1


class WireError(OSError):
    """The server refused, or said what this does not understand."""


class Connection:
    """One session; `query` may be called any number of times, by one thread at a time."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Connect and log in; raises OSError."""
        parts = urlsplit(url)
        self._socket = socket.create_connection(
            (parts.hostname or "127.0.0.1", parts.port or 5432), timeout=timeout_s
        )
        try:
            self._stream = self._socket.makefile("rb")
            self._log_in(
                unquote(parts.username or ""), unquote(parts.password or ""), parts.path[1:]
            )
        except BaseException:
            self._socket.close()
            raise

    def query(self, sql: str) -> list[Row]:
        """The rows of one statement, every value as text; raises WireError where it fails."""
        self._send(b"Q", sql.encode() + b"\0")
        rows: list[Row] = []
        failure = ""
        while True:
            kind, body = self._receive()
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                failure = _error(body)
            elif kind == b"Z":
                if failure:
                    raise WireError(failure)
                return rows

    def close(self) -> None:
        """Say goodbye; never raises for a connection that is gone already."""
        try:
            self._send(b"X", b"")
        except OSError:
            pass
        finally:
            self._stream.close()
            self._socket.close()

    def _log_in(self, user: str, password: str, database: str) -> None:
        words = ("user", user, "database", database, "application_name", "relais-stack")
        start = b"".join(word.encode() + b"\0" for word in words) + b"\0"
        self._send(b"", struct.pack("!i", _PROTOCOL) + start)
        scram = _Scram(password)
        while True:
            kind, body = self._receive()
            if kind == b"E":
                raise WireError(_error(body))
            if kind == b"Z":
                return
            if kind == b"R":
                self._authenticate(scram, struct.unpack("!i", body[:4])[0], body[4:])

    def _authenticate(self, scram: _Scram, step: int, body: bytes) -> None:
        if step == _AUTH_SASL:
            if _MECHANISM not in body.split(b"\0"):
                message = "The server does not offer SCRAM-SHA-256."
                raise WireError(message)
            first = scram.first()
            self._send(b"p", _MECHANISM + b"\0" + struct.pack("!i", len(first)) + first)
        elif step == _AUTH_CONTINUE:
            self._send(b"p", scram.answer(body))
        elif step == _AUTH_FINAL:
            scram.check(body)
        elif step != _AUTH_OK:
            message = f"The server wants authentication {step}, not SCRAM."
            raise WireError(message)

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        return head[:1], self._exactly(struct.unpack("!i", head[1:])[0] - 4)

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            message = "The server closed the connection."
            raise WireError(message)
        return data


class _Scram:
    """The client's side of SCRAM-SHA-256 without channel binding."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._nonce = secrets.token_urlsafe(18)
        self._expected = b""

    def first(self) -> bytes:
        return f"n,,{self._bare()}".encode()

    def answer(self, challenge: bytes) -> bytes:
        """The proof that the password is known, without the password."""
        told = dict(part.split("=", 1) for part in challenge.decode().split(","))
        if not told["r"].startswith(self._nonce):
            message = "The server answered somebody else's nonce."
            raise WireError(message)
        salted = hashlib.pbkdf2_hmac(
            "sha256", self._password, base64.b64decode(told["s"]), int(told["i"])
        )
        final = f"c=biws,r={told['r']}"
        spoken = f"{self._bare()},{challenge.decode()},{final}".encode()
        key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(key).digest(), spoken)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        self._expected = _hmac(_hmac(salted, b"Server Key"), spoken)
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def check(self, final: bytes) -> None:
        """Raise WireError unless the server knows the password too."""
        told = base64.b64decode(final.removeprefix(b"v="))
        if not hmac.compare_digest(told, self._expected):
            message = "The server does not know the password itself."
            raise WireError(message)

    def _bare(self) -> str:
        return f"n=,r={self._nonce}"


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _row(body: bytes) -> Row:
    count = struct.unpack("!h", body[:2])[0]
    values: list[str | None] = []
    at = 2
    for _ in range(count):
        size = struct.unpack("!i", body[at : at + 4])[0]
        at += 4
        values.append(None if size == _NULL else body[at : at + size].decode())
        at += max(size, 0)
    return tuple(values)


def _error(body: bytes) -> str:
    """The message field of an ErrorResponse."""
    fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
    return fields.get(b"M", b"unknown error").decode(errors="replace")
