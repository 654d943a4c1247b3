"""Which services the stack runs itself, and which the user's own URLs stand for."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ops.stack import layout
from ops.stack.catalogue import Catalogue
from ops.stack.service import Service
from ops.stack.variables import SharedPorts
from tasks.outbound.allow import AllowList

SECRETS = dict.fromkeys(
    ("postgres_password", "redis_password", "flower_password", "callback_secret"), "made up"
)


def postgres(tmp_path: Path, url: str) -> Service:
    user = {"RELAIS_DATABASE_URL": url} if url else {}
    book = Catalogue(
        layout.find(tmp_path, "blue"), secrets=SECRETS, shared=SharedPorts(1, 2, 3), user=user
    )
    return next(one for one in book.services() if one.name == "postgres")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@db:5432/relais", "db:5432"),
        ("postgresql://u:secret@a:1,b:2/relais?target_session_attrs=read-write", "a:1,b:2"),
        ("postgresql:///relais?host=a,b&password=secret", "(RELAIS_DATABASE_URL)"),
        ("host=a,b dbname=relais password=secret", "(RELAIS_DATABASE_URL)"),
    ],
)
def test_a_database_of_the_users_own_is_not_run_however_its_url_is_written(
    tmp_path: Path, url: str, shown: str
) -> None:
    service = postgres(tmp_path, url)
    assert service.command is None
    assert service.address == shown


def test_outbound_jobs_cannot_read_the_inbox(tmp_path: Path) -> None:
    """It holds the mails of every tenant, and `workflow.trigger` returns what it reads."""
    book = Catalogue(
        layout.find(tmp_path, "blue"), secrets=SECRETS, shared=SharedPorts(1, 2, 3), user={}
    )
    allowed = AllowList.parse(book.variables["RELAIS_OUTBOUND_ALLOW"].split(","))
    for port in (2, 3):  # SMTP and HTTP
        assert not allowed.covers(IPv4Address("127.0.0.1"), port)
        assert not allowed.names("localhost", port)


def test_without_a_url_the_stack_runs_postgres(tmp_path: Path) -> None:
    assert postgres(tmp_path, "").command is not None
