"""One's own services and settings, where they are wrong: a sentence, at once, whoever is started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from ledger import fitness
from runtime.settings import Settings
from tasks import preflight
from tests import services
from tests.stack import cluster as stands
from tests.stack.cluster import CHECKOUT, Cluster
from tests.waiting import block_until, within

# The product's own limit is below 5 s; this is for a machine that does other things too.
SAID_WITHIN_S = 10.0
DATABASE, REDIS, SMTP = "RELAIS_DATABASE_URL", "RELAIS_REDIS_URL", "RELAIS_SMTP_URL"


@dataclass(frozen=True)
class Wrong:
    """A value with `{places}` in it, what is said of it, and what to do."""

    variable: str
    value: str
    said: str
    remedy: str
    is_passing: bool = False  # a process says it, and goes on trying


SERVICES = {
    "bad password": Wrong(
        DATABASE, "{as_role}:wrong@{pg}/{db}", "password authentication failed", "Correct the user"
    ),
    "no such database": Wrong(
        DATABASE, "{login}@{pg}/nowhere", '"nowhere" does not exist', "create it"
    ),
    "no rights": Wrong(DATABASE, "{login}@{pg}/{db}", "may not use the schema", "ALTER SCHEMA"),
    "no right to make the schema": Wrong(
        DATABASE, "{login}@{pg}/postgres", "may not create the schema", "CREATE SCHEMA relais"
    ),
    "LATIN1": Wrong(DATABASE, "{owner}/{latin1}", "encoding LATIN1", "ENCODING 'UTF8'"),
    "commits that may be lost": Wrong(
        DATABASE, "{careless}@{pg}/{db}", "synchronous_commit = off", "synchronous_commit = on"
    ),
    "wrong port": Wrong(
        DATABASE, "postgresql://a:b@127.0.0.1:{closed}/c", "refused", "correct host and port", True
    ),
    "no such host": Wrong(
        DATABASE, "postgresql://a:b@nowhere.invalid/c", "not known", "correct host and port", True
    ),
    "a host that never answers": Wrong(
        DATABASE, "postgresql://a:b@{hole}/c", "cannot be reached", "correct host and port", True
    ),
    "Redis with a bad password": Wrong(
        REDIS, "redis://:wrong@{redis}/0", "refuses: ", "Correct the login"
    ),
    "Redis without the database": Wrong(
        REDIS, "redis://:{redis_password}@{redis}/99", "DB index is out of range", "/0"
    ),
    "Redis that never answers": Wrong(
        REDIS, "redis://{hole}/0", "cannot be reached", "correct host and port", True
    ),
}
SETTINGS = {
    "another server": Wrong(DATABASE, "mysql://a:b@h/c", "begins with mysql://", "postgresql://"),
    "unescaped": Wrong(
        DATABASE, "postgresql://relais:p@ss/word@127.0.0.1/c", "percent-encoded", "%40"
    ),
    "no relay's URL": Wrong(SMTP, "foo", "is not a URL", "smtp://"),
    "no Redis' URL": Wrong(REDIS, "http://h", "begins with http://", "redis://"),
    "further relays": Wrong("RELAIS_RELAYS", '{{"a": "foo"}}', "'a' is not a URL", "smtp://"),
    "a relay of no text": Wrong(
        "RELAIS_RELAYS", '{{"a": 5}}', "'a': Input should", "configuration"
    ),
    "callback secret": Wrong("RELAIS_CALLBACK_SECRET", "secret", "not of the form", "whsec_"),
    "outbound": Wrong("RELAIS_OUTBOUND_ALLOW", "a b", "'a b' cannot be parsed", "host:port"),
    "token key": Wrong("RELAIS_JWT_KEY", "x", "the issuer or the audience", "RELAIS_JWT_ISSUER"),
    "no module": Wrong("RELAIS_KINDS", "no_such_module", "'no_such_module'", "PYTHONPATH"),
    "syntax": Wrong("RELAIS_KINDS", "kaputte_arten", "kaputte_arten.py:2: SyntaxError", "Correct"),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with stands.cluster() as made:
        yield made


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Any]]:
    """What the values above leave open: servers, roles and databases that are wrong somehow."""
    server, redis = services.postgres_url(), services.redis_url()
    owner, _, pg = server.rpartition("/")[0].rpartition("@")
    name = f"t_{uuid4().hex[:8]}"
    with (
        services.fresh_database() as url,
        psycopg.connect(server, autocommit=True) as admin,
        socket.socket() as hole,
        socket.socket() as closed,
    ):
        for role in (name, f"{name}_careless"):
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
        admin.execute(f"ALTER ROLE {name}_careless SUPERUSER")
        admin.execute(f"ALTER ROLE {name}_careless SET synchronous_commit = off")
        admin.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
            " TEMPLATE template0"
        )
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        closed.bind(("127.0.0.1", 0))
        try:
            yield {
                "owner": f"{owner}@{pg}",
                "pg": pg,
                "db": urlsplit(url).path[1:],
                "as_role": f"postgresql://{name}",
                "login": f"postgresql://{name}:p",
                "careless": f"postgresql://{name}_careless:p",
                "latin1": name,
                "hole": f"127.0.0.1:{hole.getsockname()[1]}",
                "closed": closed.getsockname()[1],
                "redis": redis.rpartition("@")[2].rpartition("/")[0],
                "redis_password": urlsplit(redis).password,
                "database_url": url,
                "redis_url": redis,
            }
        finally:
            admin.execute(f"DROP DATABASE {name}")
            for role in (name, f"{name}_careless"):
                admin.execute(f"DROP ROLE {role}")


@pytest.fixture
def wrong_kinds(tmp_path: Path) -> str:
    """A folder with a module that Python does not understand."""
    (tmp_path / "kaputte_arten.py").write_text("from relais_kinds import kind\ndef (:\n")
    return f"{CHECKOUT}{os.pathsep}{tmp_path}"


@contextmanager
def process(*words: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", *words],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGKILL)


def last_words(ending: subprocess.Popen[str]) -> str:
    """What it says until it has ended, which it does soon."""
    with within(SAID_WITHIN_S):
        said, _ = ending.communicate(timeout=60)
    return said


def told(text: str, wrong: Wrong) -> bool:
    return wrong.variable in text and wrong.said in text and wrong.remedy in text


def environment(cluster: Cluster, places: dict[str, Any], wrong: Wrong) -> dict[str, str]:
    """Of a process by itself: good services, but for the wrong one."""
    return {
        **cluster.env,
        DATABASE: places["database_url"],
        REDIS: places["redis_url"],
        "RELAIS_FLOWER_PASSWORD": "x",
        "RELAIS_GATEWAY_PORT": str(cluster.base["blue"]),
        wrong.variable: wrong.value.format(**places),
    }


def assert_told(text: str, wrong: Wrong, places: dict[str, Any]) -> None:
    assert told(text, wrong), text
    assert "Traceback" not in text
    assert "sqlalche" not in text
    assert wrong.value.format(**places) not in text or "://" not in wrong.value


@pytest.mark.parametrize("wrong", SERVICES.values(), ids=SERVICES)
def test_a_service_that_is_wrong_is_told_by_up_and_by_a_process_itself(
    cluster: Cluster, places: dict[str, Any], wrong: Wrong
) -> None:
    with process("gateway", env=environment(cluster, places, wrong)) as gateway:
        assert_refused_by_up(cluster, places, wrong)
        if wrong.is_passing:
            assert gateway.stdout is not None
            said = next(line for line in gateway.stdout if "preflight.no_answer" in line)
            assert gateway.poll() is None
        else:
            said = last_words(gateway)
            assert gateway.returncode == 2, said
        assert_told(said, wrong, places)


@pytest.mark.parametrize("wrong", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_is_read_to_the_end_before_anything_starts(
    cluster: Cluster, places: dict[str, Any], wrong_kinds: str, wrong: Wrong
) -> None:
    assert_refused_by_up(cluster, places, wrong, PYTHONPATH=wrong_kinds)


def assert_refused_by_up(
    cluster: Cluster, places: dict[str, Any], wrong: Wrong, **env: str
) -> None:
    with within(SAID_WITHIN_S):
        up = cluster.up(**{wrong.variable: wrong.value.format(**places)}, **env)
    assert up.returncode == 2
    assert up.stdout == ""
    assert_told(up.stderr, wrong, places)
    assert cluster.status()["stack"] == "down"


def test_everything_that_starts_says_it(
    cluster: Cluster, places: dict[str, Any], wrong_kinds: str
) -> None:
    wrong = SETTINGS["syntax"]
    env = environment(cluster, places, wrong) | {"PYTHONPATH": wrong_kinds}
    for words in (("workers", "template"), ("gateway",)):
        with process(*words, env=env) as running:
            said = last_words(running)
        assert running.returncode == 2, said
        assert_told(said, wrong, places)
    wrong = SERVICES["bad password"]
    env = environment(cluster, places, wrong)
    data = {"RELAIS_DATA_DIR": str(cluster.data)}
    for words in (("workers", "template"), ("workers.beat",), ("ledger.migrate", "pre")):
        with process(*words, env=env) as running:
            said = last_words(running)
        assert running.returncode == 2, said
        assert_told(said, wrong, places)
    for word in ("status", "doctor"):
        done = cluster.run(word, **data, **{wrong.variable: wrong.value.format(**places)})
        assert done.returncode == 2, done.stdout + done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert wrong.variable in said
    listed = cluster.run("doctor", "--json", **{wrong.variable: wrong.value.format(**places)})
    found = {one["name"]: one for one in json.loads(listed.stdout)["checks"]}[wrong.variable]
    assert not found["ok"]
    assert wrong.said in found["found"]
    assert wrong.remedy in found["remedy"]


def test_a_relay_that_cannot_be_reached_is_said_and_waited_for(
    cluster: Cluster, places: dict[str, Any]
) -> None:
    relay = {SMTP: f"smtp://127.0.0.1:{places['closed']}"}
    up = cluster.up("redis", "inbox", **relay)
    try:
        assert up.returncode == 0, up.stderr
        assert up.stderr.startswith(f"{SMTP}: The relay at 127.0.0.1:{places['closed']} cannot be")
        assert "Mail waits until it responds." in up.stderr
        block_until(lambda: cluster.service("inbox")["state"] == "unhealthy")
        status = cluster.run("status")
        assert status.returncode == 0
        assert status.stderr == up.stderr
        # What runs is not what is asked for now: that is said, with the way there.
        other = cluster.up("redis", "inbox", RELAIS_LEASE_S="61", **relay)
        assert other.returncode == 1
        assert "blue is already running with a different RELAIS_LEASE_S." in other.stderr
        options = f"--only redis --only inbox --port-base {cluster.base['blue']}"
        assert f"./relais down && ./relais up {options}" in other.stderr
        folder = cluster.run("up", "--data-dir", str(cluster.data), RELAIS_DATA_DIR="")
        assert "blue is already running with a different --only." in folder.stderr
        assert f"./relais down --data-dir {cluster.data}" in folder.stderr
    finally:
        cluster.down()


def test_a_server_that_is_too_old_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitness, "VERSION_MIN", 99)
    monkeypatch.setattr(preflight, "REDIS_VERSION_MIN", (99, 1))
    found = preflight.check_services(settings, [DATABASE, REDIS])
    assert [one.variable for one in found] == [DATABASE, REDIS]
    assert "Relais needs 99 or newer" in found[0].sentence
    assert "Relais needs 99.1 or newer" in found[1].sentence
    assert not any(one.is_passing for one in found)


def test_good_services_are_not_complained_about(settings: Settings) -> None:
    assert preflight.check_services(settings, [DATABASE, REDIS]) == []


def test_a_folder_whose_name_is_not_ascii_works_in_the_c_locale(cluster: Cluster) -> None:
    data = cluster.data.parent / "Données ☃"
    c_locale = {"LC_ALL": "C", "LANG": "", "PYTHONCOERCECLOCALE": "0"}
    base = ("--port-base", str(cluster.base["green"]))
    words = ("--data-dir", str(data))
    up = cluster.run("up", "-d", "--only", "postgres", "--only", "redis", *words, *base, **c_locale)
    try:
        assert up.returncode == 0, up.stderr
        status = cluster.run("status", *words, **c_locale)
        assert status.returncode == 0, status.stderr
    finally:
        down = cluster.run("down", *words, **c_locale)
    assert down.returncode == 0, down.stderr
    assert "Traceback" not in up.stderr + status.stderr + down.stderr
