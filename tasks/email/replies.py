"""What a relay's reply means for the message, its recipient, the relay and the next try.

The table follows RFC 5321 section 4.2, RFC 3463 and RFC 6647 (greylisting). An enhanced code is
more specific than the basic one and wins if they disagree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

TEXT_MAX = 500  # characters of a reply that are kept
_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|$)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")


class Phase(StrEnum):
    """How far a conversation had got when the relay replied, or fell silent."""

    CONNECT = "connect"
    LOGIN = "login"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    DOT = "dot"  # the final dot went out: the relay may have the message


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply, all its lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463) that it starts with, as in `4.7.1`."""
        match = _ENHANCED.match(self.lines[0])
        return match[0] if match else None

    @property
    def text(self) -> str:
        """One printable line, trimmed."""
        return _CONTROLS.sub(" ", f"{self.code} {' '.join(self.lines)}")[:TEXT_MAX].strip()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The relay accepted the message."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now; `is_greylisting`: retry in some minutes."""

    reply: Reply
    phase: Phase
    is_greylisting: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Never; `suppresses`: the address does not exist, send nothing to it again."""

    reply: Reply
    phase: Phase
    suppresses: bool = False


@dataclass(frozen=True, slots=True)
class HostBackoff:
    """421: the relay closes the connection and wants us to back off."""

    reply: Reply
    phase: Phase


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The relay refuses our login: nothing can go through it."""

    reply: Reply
    phase: Phase


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No conversation took place: connection refused, bad certificate, no greeting."""

    reason: str


@dataclass(frozen=True, slots=True)
class Crowded:
    """Every connection that the relay allows was in use for too long; nothing was tried."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection was lost or went silent; after the dot it is unknown who has the message."""

    phase: Phase
    reason: str

    @property
    def before_dot(self) -> bool:
        """Whether it is certain that the relay does not have the message."""
        return self.phase is not Phase.DOT


@dataclass(frozen=True, slots=True)
class NotOurs:
    """The claim was lost before the dot: the connection was cut, nothing was sent."""


Negative = Deferred | Refused | HostBackoff | LoginRefused
Result = Accepted | Negative | Unreachable | Crowded | Lost | NotOurs

# Codes that are about us and not about the message, wherever they occur.
_LOGIN_CODES = {530, 534, 535, 538}
# The mailbox does not exist, has moved away, or its domain takes no mail (RFC 7505).
_NO_SUCH_ADDRESS = {"5.1.1", "5.1.6", "5.1.10"}
# A 5yz without an enhanced code that RFC 5321 section 4.5.3.1.10 tells us to treat as a 4yz.
_PASSING_AT_RCPT = {552}


def classify(reply: Reply, phase: Phase) -> Negative:
    """What a reply other than the expected one means at `phase`."""
    enhanced = reply.enhanced
    if reply.code == 421:
        return HostBackoff(reply, phase)
    if reply.code in _LOGIN_CODES and phase in (Phase.LOGIN, Phase.MAIL):
        return LoginRefused(reply, phase)
    if phase is Phase.LOGIN and reply.code >= 500:
        return LoginRefused(reply, phase)
    if _is_permanent(reply, phase, enhanced):
        agrees = reply.code >= 500  # a 450 with 5.1.1 is too odd to suppress an address for
        return Refused(reply, phase, suppresses=agrees and enhanced in _NO_SUCH_ADDRESS)
    greylisting = enhanced is not None and enhanced.startswith("4.7.")
    return Deferred(reply, phase, greylisting and phase in (Phase.RCPT, Phase.DATA))


def _is_permanent(reply: Reply, phase: Phase, enhanced: str | None) -> bool:
    if enhanced is not None and enhanced[0] in "45":
        return enhanced[0] == "5"
    if reply.code in _PASSING_AT_RCPT and phase is Phase.RCPT:
        return False
    # A positive reply in the wrong place means that the relay is out of step: retry.
    return reply.code >= 500
