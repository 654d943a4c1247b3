"""Whether this process can work with its settings and services.

The one place that decides this, for the command line and for every process. All settings are
validated, whichever process needs them. Services are checked in parallel, for a few seconds
each, and their own messages are shown. `python -m tasks.preflight [VARIABLE ...]` does it in a
separate process.
"""

from __future__ import annotations

import json
import re
import secrets
import smtplib
import ssl
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ledger import fitness
from runtime import logs, token_key, urls
from runtime import settings as runtime_settings
from runtime.errors import RelaisError, SettingsError
from runtime.finding import Finding, unreachable, words_of
from tasks import kinds
from tasks.email import relays
from tasks.outbound import signature
from tasks.outbound.allow import AllowList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import SecretStr
    from redis import Redis

    from runtime.settings import Settings

DATABASE, DIRECT = "RELAIS_DATABASE_URL", "RELAIS_DIRECT_DATABASE_URL"
REDIS, SMTP = "RELAIS_REDIS_URL", "RELAIS_SMTP_URL"
REDIS_VERSION_MIN = (6, 2)
WITHIN_S = 4.0  # for all of them together
_CONNECT_S = 3
_EHLO_OK = 250
_LOGIN = re.compile("(?i)auth|password|permission|NOPERM")
_NAMES = {DATABASE: "Postgres", DIRECT: "Postgres", REDIS: "Redis", SMTP: "The relay"}
log = logs.logger("preflight")


def check_settings(settings: Settings) -> None:
    """Also read what only one part of Relais reads; SettingsError for the first that is wrong."""
    signature.secrets_of(settings.callback_secret.get_secret_value())
    AllowList.parse(settings.outbound_allow)
    for name, url in {relays.DEFAULT: settings.smtp_url, **settings.relays}.items():
        if url.get_secret_value() or name != relays.DEFAULT:
            relays.parse(name, url.get_secret_value())
    token_key.of(settings)


def check_services(
    settings: Settings, variables: Iterable[str], *, needs_schema: bool = True
) -> list[Finding]:
    """What is wrong with the services that `variables` name, in their order; those not set pass.

    `needs_schema`: the database must be migrated by now.
    """
    postgres = partial(fitness.ask, needs_schema=needs_schema)
    asks: dict[str, tuple[SecretStr, Callable[[str, str], Finding | None]]] = {
        DATABASE: (settings.database_url, postgres),
        DIRECT: (settings.direct_database_url, postgres),
        REDIS: (settings.redis_url, _ask_redis),
        SMTP: (settings.smtp_url, _ask_relay),
    }
    found: dict[str, Finding | None] = {}
    # Not a thread pool: nothing waits for a thread that is still checking.
    asking = []
    for variable in variables:
        secret, ask = asks[variable]
        if url := secret.get_secret_value():
            name = f"{_NAMES[variable]} at {urls.shown(url)}"
            found[variable] = unreachable(variable, name, f"no response within {WITHIN_S:.0f} s")
            thread = threading.Thread(target=_note, args=(found, variable, ask, url), daemon=True)
            thread.start()
            asking.append(thread)
    until = time.monotonic() + WITHIN_S
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    return [finding for finding in list(found.values()) if finding is not None]


def _note(
    found: dict[str, Finding | None],
    variable: str,
    ask: Callable[[str, str], Finding | None],
    url: str,
) -> None:
    found[variable] = ask(variable, url)


def require(settings: Settings, *variables: str) -> None:
    """For a process at startup: SettingsError for what must be changed first.

    A transient problem is logged, and the process keeps trying.
    """
    check_settings(settings)
    for finding in check_services(settings, variables):
        if not finding.is_passing:
            raise SettingsError(finding.told, remedy=finding.remedy)
        log.warning("preflight.no_answer", reason=str(finding))


def _ask_redis(variable: str, url: str) -> Finding | None:
    import redis  # noqa: PLC0415 - a megabyte that who only asks Postgres does without
    from redis.backoff import NoBackoff  # noqa: PLC0415 - "
    from redis.retry import Retry  # noqa: PLC0415 - "

    at = urls.shown(url)
    key = f"relais:preflight:{secrets.token_hex(8)}"
    try:
        with redis.Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.set(key, b"", px=5_000)
            client.delete(key)
            version = _version_of(client)
    except (redis.AuthenticationError, redis.ResponseError) as error:
        return _refused_by_redis(variable, at, words_of(error))
    except (redis.RedisError, OSError, ValueError) as error:
        return unreachable(variable, f"Redis at {at}", words_of(error))
    if version and version < REDIS_VERSION_MIN:
        seen, wanted = (".".join(map(str, one)) for one in (version, REDIS_VERSION_MIN))
        sentence = f"Redis at {at} is version {seen}; Relais needs {wanted} or newer, or Valkey."
        return Finding(variable, sentence, "Upgrade the server.")
    return None


def _version_of(client: Redis) -> tuple[int, ...]:
    """Empty if this user may not ask."""
    from redis import ResponseError  # noqa: PLC0415 - see above

    try:
        known: Any = client.info("server")
    except ResponseError:
        return ()
    return tuple(int(part) for part in str(known["redis_version"]).split(".")[:2])


def _refused_by_redis(variable: str, at: str, words: str) -> Finding:
    """A wrong login or database stays wrong; any other error may be transient."""
    sentence = f"Redis at {at} refuses: {words}."
    if "DB index" in words:
        return Finding(variable, sentence, "Use an existing database, usually /0.")
    if _LOGIN.search(words):
        return Finding(variable, sentence, "Correct the login: redis://:password@host:port/0.")
    remedy = "Use the primary." if words.startswith("READONLY") else "See the server's log."
    return Finding(variable, sentence, remedy, is_passing=True)


def _ask_relay(variable: str, url: str) -> Finding | None:
    """Greeting and EHLO; nothing is sent, and there is no login."""
    relay = relays.parse(relays.DEFAULT, url)
    name = f"The relay at {relay.host}:{relay.port}"
    code: int
    said: bytes | str
    try:
        if relay.security == "tls":
            tls = ssl.create_default_context(cafile=relay.ca or None)
            if not relay.verify:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            made: smtplib.SMTP = smtplib.SMTP_SSL(
                relay.host, relay.port, timeout=_CONNECT_S, context=tls
            )
        else:
            made = smtplib.SMTP(relay.host, relay.port, timeout=_CONNECT_S)
        with made as session:
            code, said = session.ehlo()
    except smtplib.SMTPResponseException as error:
        code, said = error.smtp_code, error.smtp_error
    except (OSError, smtplib.SMTPException) as error:
        found = unreachable(variable, name, words_of(error))
        return replace(found, remedy=f"Mail waits until it responds. {found.remedy}")
    if code == _EHLO_OK:
        return None
    sentence = f"{name} refuses: {code} {' '.join(_text(said).split())}."
    return Finding(variable, sentence, "Mail waits until it accepts some.", is_passing=True)


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said


def main(variables: list[str]) -> int:
    """Print a JSON list of findings as the last line; 0 whatever they are."""
    found: list[Finding] = []
    try:
        settings = runtime_settings.load()
        check_settings(settings)
        kinds.load(settings.kinds)
        found = check_services(settings, variables, needs_schema=False)
    except RelaisError as error:
        found = [Finding("", error.sentence, error.remedy)]
    sys.stdout.write(json.dumps([asdict(finding) for finding in found]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
