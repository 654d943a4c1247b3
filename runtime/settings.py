"""Every setting of every process, read once from `RELAIS_*` environment variables.

`docs/configuration.md` is generated from this file; a description here is what
an operator reads there. Durations are seconds (`_s`), sizes are bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from runtime import urls
from runtime.errors import SettingsError, words_of
from runtime.version import VERSION

Colour = Literal["blue", "green"]

_DATABASE = "postgresql://user:password@host:port/database"
_DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_KEYWORD = re.compile(r"\s*[a-z_]+\s*=")  # libpq's other form: host=a dbname=b
_OWN = "relais"  # the type of an error whose text is ours
_REDIS = "redis://:password@host:port/0"


class Settings(BaseSettings):
    """Typed view of the environment; frozen, so that no setting changes while a process runs."""

    model_config = SettingsConfigDict(
        env_prefix="RELAIS_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # it may be a password
    )

    # services
    database_url: SecretStr = Field(
        SecretStr(""),
        description="Postgres, `postgresql://user:password@host:port/database`, or any other form "
        "that libpq understands: several hosts, keywords. The truth.",
    )
    direct_database_url: SecretStr = Field(
        SecretStr(""),
        description="The same database without a pooler in between, for what needs a session of "
        "its own: workers' proof of life, migrations. Needed only behind transaction pooling.",
    )
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis or Valkey, `redis://:password@host:port/0`. The doorbell.",
    )
    smtp_url: SecretStr = Field(
        SecretStr(""),
        description="The default relay: `smtp://`, `smtp+starttls://` or `smtps://` "
        "`user:password@host:port`, with `?policy=at_least_once|at_most_once|idempotency_header`.",
    )
    relays: dict[str, SecretStr] = Field(
        default_factory=dict,
        description='Additional relays by name, as JSON: `{"marketing": "smtps://..."}`.',
    )

    # identity
    colour: Colour = Field("blue", description="Which of the two sets this process belongs to.")
    version: str = Field(VERSION, description="Stamped on every attempt.")
    data_dir: Path = Field(Path(".data"), description="The only folder that the stack writes to.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The lowest level that is logged."
    )

    # gateway
    gateway_host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    gateway_port: int = Field(8080, ge=1, le=65535, description="Port the gateway listens on.")
    gateway_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share this address; more than one if the machine has more "
        "cores than its workers and Postgres need.",
    )
    gateway_connections_max: int = Field(
        4_096,
        ge=1,
        description="Connections that each gateway process keeps; beyond that, those that have "
        "waited longest for their client are closed.",
    )
    gateway_connections_per_address: int = Field(
        0,
        ge=0,
        description="Connections from one address (IPv6: one /64) to each gateway process; 0: no "
        "limit. Leave it at 0 behind a proxy, where all callers have the proxy's address.",
    )
    public_url: str = Field(
        "",
        description="Address at which callers reach the gateway, shown on its pages; empty: the "
        "address at which the page was opened.",
    )
    inbox_url: str = Field(
        "", description="The local inbox, linked from `/`; set by the local stack."
    )
    body_max_bytes: int = Field(
        1_048_576,
        ge=1024,
        description="Largest body of a single job; a larger one is refused before parsing.",
    )
    batch_max_bytes: int = Field(
        67_108_864,
        ge=1024,
        description="Largest body of a batch; a larger one is refused while it arrives.",
    )
    batch_max_jobs: int = Field(10_000, ge=1, description="Most jobs in one batch.")
    body_max_depth: int = Field(64, ge=4, le=128, description="Deepest nesting of a JSON body.")
    bodies_max_bytes: int = Field(
        134_217_728,
        ge=33_554_432,
        description="Memory for the bodies of all requests to a gateway process; one key gets half "
        "of it. Beyond that, requests wait, then get 503.",
    )
    rate_limit_per_s: float = Field(
        5_000.0,
        ge=0.001,
        description="Requests per second for each API key that has no rate of its own.",
    )
    jwt_algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = Field(
        "HS256", description="The only algorithm that bearer tokens may be signed with."
    )
    jwt_key: SecretStr = Field(
        SecretStr(""), description="Secret or PEM public key; empty: tokens are refused."
    )
    jwt_issuer: str = Field("", description="Exact `iss` of a bearer token.")
    jwt_audience: str = Field("relais", description="Exact `aud` of a bearer token.")

    # workers
    concurrency_critical: int = Field(16, ge=1, description="Jobs at once on `critical`.")
    concurrency_template: int = Field(16, ge=1, description="Jobs at once on `template`.")
    concurrency_bulk: int = Field(16, ge=1, description="Jobs at once on `bulk`.")
    concurrency_vector: int = Field(2, ge=1, description="Jobs at once on `vector`.")
    concurrency_callback: int = Field(32, ge=1, description="Jobs at once on `callback`.")
    claim_max: int = Field(256, ge=1, le=2000, description="Most jobs taken by one claim.")
    poll_s: float = Field(
        1.0, gt=0, description="How often an idle worker polls the ledger (jittered)."
    )
    lease_s: float = Field(
        60.0, gt=0, description="A running job whose worker has been silent this long is reclaimed."
    )
    heartbeat_s: float = Field(1.0, gt=0, description="How often a worker proves that it is alive.")
    dead_after_s: float = Field(
        1.5,
        gt=0,
        description="A worker counts as dead when its lock is seen free twice, this far apart.",
    )
    grace_s: float = Field(
        25.0, ge=0, description="How long running jobs have to finish after SIGTERM."
    )
    task_events: bool = Field(True, description="Tell Flower about every job.")
    kinds: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules with your own `@kind`s, comma-separated."
    )
    outcome_max_bytes: int = Field(
        1_048_576,
        ge=1024,
        le=33_554_432,
        description="Largest result of a job, as JSON; a larger one fails the job. Longer reasons "
        "and error texts are truncated.",
    )
    isolated_memory_bytes: int = Field(
        1_073_741_824, ge=67_108_864, description="Address space of an isolated handler's process."
    )
    render_memory_bytes: int = Field(
        268_435_456,
        ge=67_108_864,
        description="Address space of a process that renders templates; beyond it rendering fails.",
    )
    isolated_memory_total_bytes: int = Field(
        0,
        ge=0,
        description="Memory for all isolated processes of one worker: a quarter for rendering, the "
        "rest for handlers. As many run at once as fit with their whole address space, at least "
        "one of each; further jobs wait. 0: the memory of the machine or container.",
    )

    # outgoing HTTP
    callback_secret: SecretStr = Field(
        SecretStr(""),
        description="The master from which the secrets that sign callbacks are derived, one for "
        "each tenant and endpoint: `whsec_<base64>`; two during a rotation, new first. "
        "`./relais callback-secret URL` prints what a receiver needs.",
    )
    outbound_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts, `host:port`s or CIDRs inside your network that callbacks and "
        "`workflow.trigger` may reach, comma-separated (usually n8n).",
    )

    # retention
    retention_finished_s: float = Field(
        7 * 86_400.0,
        gt=0,
        description="Succeeded and cancelled jobs are deleted after this long.",
    )
    retention_events_s: float = Field(
        90 * 86_400.0,
        gt=0,
        description="Failed and unknown jobs, the history of all jobs, and messages are kept "
        "this long.",
    )
    snooze_max_s: float = Field(
        3 * 86_400.0,
        gt=0,
        description="A job that keeps being snoozed fails after this long.",
    )
    unknown_kind_max_s: float = Field(
        86_400.0,
        gt=0,
        description="A ready job whose kind no worker knows fails after this long.",
    )
    canary_s: float = Field(10.0, gt=0, description="How often a canary goes through each queue.")

    # Flower
    flower_user: str = Field("relais", description="Flower's user name.")
    flower_password: SecretStr = Field(
        SecretStr(""), description="Flower's password; Flower does not start without one."
    )
    flower_host: str = Field("127.0.0.1", description="Address Flower listens on.")
    flower_port: int = Field(8081, ge=1, le=65535, description="Port Flower listens on.")

    @field_validator("kinds", "outbound_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("database_url", "direct_database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not _KEYWORD.match(url):
            _refuse(urls.fault(url, schemes=_DATABASE_SCHEMES, form=_DATABASE))
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url:
            _refuse(urls.fault(url, schemes=("redis", "rediss"), form=_REDIS))
            number = url.partition("://")[2].partition("?")[0].partition("/")[2]
            if number and not number.isdecimal():
                _refuse(f"names a database that is not a number: write {_REDIS}")
        return value

    def concurrency(self, queue: str) -> int:
        """Jobs at once on `queue`."""
        return int(getattr(self, f"concurrency_{queue}"))

    def require_database_url(self) -> str:
        """The Postgres URL, or a sentence that says which variable to set."""
        url = self.database_url.get_secret_value()
        if not url:
            message = "RELAIS_DATABASE_URL is not set."
            raise SettingsError(message, remedy="Set it, or start the local stack: ./relais up.")
        return url

    def require_direct_database_url(self) -> str:
        """The Postgres URL for what needs a session of its own."""
        return self.direct_database_url.get_secret_value() or self.require_database_url()


def _refuse(fault: str) -> None:
    if fault:
        # As context, not as a template: a URL may hold braces.
        raise PydanticCustomError(_OWN, "{fault}", {"fault": fault})


@lru_cache(maxsize=1)
def load() -> Settings:
    """The settings of this process; an invalid value gives one sentence, not a traceback."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        setting, *inside = first["loc"]
        name = " ".join([f"RELAIS_{str(setting).upper()}", *(repr(part) for part in inside)])
        sentence = f"{name}{'' if first['type'] == _OWN else ':'} {words_of(first)}."
        raise SettingsError(sentence, remedy="See docs/configuration.md.") from error
    except UnreadableSetting as error:  # only `relays` is read as JSON
        sentence = "RELAIS_RELAYS is not a JSON object."
        raise SettingsError(sentence, remedy="See docs/configuration.md.") from error
