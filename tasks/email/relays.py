"""Relays: the SMTP accounts to send through, each given as one URL.

    smtp+starttls://user:password@mail.example.org:587?policy=at_most_once&connections=5

`docs/email.md` lists the options.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from runtime import urls
from runtime.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from runtime.settings import Settings

Security = Literal["none", "starttls", "tls"]
Policy = Literal["at_least_once", "at_most_once", "idempotency_header"]

DEFAULT = "default"
_SCHEMES: dict[str, tuple[Security, int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("tls", 465),
}
_FORM = "smtp://, smtp+starttls:// or smtps:// and user:password@host:port"
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,75}")
_HELO = re.compile(r"[A-Za-z0-9.-]{1,255}|\[[0-9A-Za-z:.]+\]")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that the relay may take for each step (RFC 5321 section 4.5.3.2)."""

    connect_s: float = 30.0
    greeting_s: float = 300.0
    command_s: float = 300.0
    data_s: float = 120.0
    block_s: float = 180.0
    dot_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Relay:
    """Everything about one relay; equal relays share connections."""

    name: str
    host: str
    port: int
    security: Security
    user: str = ""
    password: str = field(default="", repr=False)
    policy: Policy = "at_least_once"
    idempotency_header: str = ""
    idempotency_window_s: float = 86_400.0
    connections: int = 10
    connection_max_messages: int = 500
    connection_max_age_s: float = 300.0
    connection_idle_s: float = 20.0
    greylist_s: float = 300.0
    backoff_s: float = 5.0
    backoff_cap_s: float = 600.0
    verify: bool = True
    ca: str = ""
    helo: str = ""
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def is_loopback(self) -> bool:
        """Whether the relay is on this machine."""
        return _is_loopback(self.host)

    @property
    def login(self) -> str | None:
        """A fingerprint of user and password; changes when they change."""
        if not self.user:
            return None
        return hashlib.sha256(f"{self.user}\0{self.password}".encode()).hexdigest()[:16]


def find(settings: Settings, name: str) -> Relay:
    """The relay called `name`; raises SettingsError if it is missing or malformed."""
    urls: Mapping[str, SecretStr] = {DEFAULT: settings.smtp_url, **settings.relays}
    url = urls[name].get_secret_value() if name in urls else ""
    if not url:
        where = "RELAIS_SMTP_URL" if name == DEFAULT else "RELAIS_RELAYS"
        message = f"There is no relay {name!r}."
        raise SettingsError(message, remedy=f"Name it in {where}.")
    return parse(name, url)


def require_known(settings: Settings, name: str) -> None:
    """Raise SettingsError if no setting defines this relay; the default may be set later."""
    if name != DEFAULT and name not in settings.relays:
        message = f"There is no relay {name!r}."
        remedy = "Name it in RELAIS_RELAYS, or leave the field out to use the default relay."
        raise SettingsError(message, remedy=remedy)


@lru_cache(maxsize=256)
def parse(name: str, url: str) -> Relay:
    """The relay that `url` describes; raises SettingsError, which never quotes the URL."""
    fault = urls.fault(url, schemes=tuple(_SCHEMES), form=_FORM)
    if fault:
        raise _wrong(name, fault)
    try:
        parts = urlsplit(url)
        port = parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise _wrong(name, f"is malformed: {error}") from error
    if not parts.hostname or parts.path not in {"", "/"} or parts.fragment:
        raise _wrong(name, "must be of the form scheme://user:password@host:port?option=value")
    security, usual_port = _SCHEMES[parts.scheme]
    options, timeouts = _options(name, pairs)
    relay = Relay(
        name=name,
        host=parts.hostname,
        port=port or usual_port,
        security=security,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        timeouts=Timeouts(**timeouts),
        **options,
    )
    _refuse_unsafe(relay)
    return relay


def _refuse_unsafe(relay: Relay) -> None:
    if relay.user and relay.security == "none" and not relay.is_loopback:
        raise _wrong(relay.name, "would send a password in the clear; use smtp+starttls or smtps")
    if not relay.verify and not relay.is_loopback:
        raise _wrong(relay.name, "may say verify=no only for a relay on this machine; use ca=FILE")
    if relay.policy == "idempotency_header" and not relay.idempotency_header:
        raise _wrong(relay.name, "needs idempotency_header=NAME for the policy idempotency_header")
    if relay.ca and not Path(relay.ca).is_file():
        raise _wrong(relay.name, "names a file with certificates (ca=) that does not exist")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 < number <= 604_800:
        message = "must be more than 0 and at most a week"
        raise ValueError(message)
    return number


def _count(value: str) -> int:
    number = int(value)
    if not 1 <= number <= 10_000:
        message = "must be from 1 to 10000"
        raise ValueError(message)
    return number


def _flag(value: str) -> bool:
    if value not in {"yes", "no"}:
        message = "must be yes or no"
        raise ValueError(message)
    return value == "yes"


def _policy(value: str) -> str:
    if value not in get_args(Policy):
        message = f"must be one of {', '.join(get_args(Policy))}"
        raise ValueError(message)
    return value


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            message = "has characters that are not allowed"
            raise ValueError(message)
        return value

    return check


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "policy": _policy,
    "idempotency_header": _matching(_HEADER_NAME),
    "idempotency_window_s": _seconds,
    "connections": _count,
    "connection_max_messages": _count,
    "connection_max_age_s": _seconds,
    "connection_idle_s": _seconds,
    "greylist_s": _seconds,
    "backoff_s": _seconds,
    "backoff_cap_s": _seconds,
    "verify": _flag,
    "ca": str,
    "helo": _matching(_HELO),
}
_TIMEOUTS = {
    "connect_timeout_s": "connect_s",
    "greeting_timeout_s": "greeting_s",
    "command_timeout_s": "command_s",
    "data_timeout_s": "data_s",
    "block_timeout_s": "block_s",
    "dot_timeout_s": "dot_s",
}


def _options(name: str, pairs: list[tuple[str, str]]) -> tuple[dict[str, Any], dict[str, float]]:
    options: dict[str, Any] = {}
    timeouts: dict[str, float] = {}
    for option, value in pairs:
        try:
            if option in _TIMEOUTS:
                timeouts[_TIMEOUTS[option]] = _seconds(value)
            elif option in _OPTIONS:
                options[option] = _OPTIONS[option](value)
            else:
                raise _wrong(name, f"has an unknown option {option!r}")
        except ValueError as error:
            raise _wrong(name, f"has an invalid {option}: {error}") from error
    return options, timeouts


def _wrong(name: str, sentence: str) -> SettingsError:
    which = "RELAIS_SMTP_URL" if name == DEFAULT else f"RELAIS_RELAYS: the URL of {name!r}"
    return SettingsError(f"{which} {sentence}.", remedy="See docs/email.md.")
