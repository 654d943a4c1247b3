"""The supervisor's own Postgres client against a real server, and beside the driver."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from ops.stack.foreign import Foreign
from ops.stack.presence import Dial, Presence, Session, to_foreign_server, to_own_server
from ops.stack.wire import Connection, WireError


@pytest.fixture(params=["own client", "driver"])
def session(request: pytest.FixtureRequest, database_url: str) -> Iterator[Session]:
    """Both ways to ask; the same tests for each."""
    made: Session = (
        Connection(database_url, timeout_s=5.0)
        if request.param == "own client"
        else Foreign(database_url, connect_timeout_s=5.0)
    )
    with closing(made):
        yield made


def test_rows_come_back_as_text(session: Session) -> None:
    assert session.query("SELECT 1, 'Zoë', NULL, ''") == [("1", "Zoë", None, "")]
    assert session.query("SELECT 1 WHERE false") == []
    assert len(session.query("SELECT repeat('x', 5000) FROM generate_series(1, 300)")) == 300


def test_a_wrong_statement_is_an_oserror_and_the_session_lives_on(session: Session) -> None:
    with pytest.raises(OSError, match="nowhere"):
        session.query("SELECT * FROM nowhere")
    assert session.query("SELECT 2") == [("2",)]


def test_a_wrong_password_is_refused(database_url: str) -> None:
    before, _, after = database_url.rpartition("@")
    wrong = f"{before.rpartition(':')[0]}:wrong@{after}"
    with pytest.raises(WireError, match="password authentication failed"):
        Connection(wrong, timeout_s=5.0)


def test_an_ended_session_is_an_oserror(session: Session, database_url: str) -> None:
    pid = session.query("SELECT pg_backend_pid()")[0][0]
    with psycopg.connect(database_url) as other:
        other.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
    with pytest.raises(OSError, match=r"terminating connection|closed"):
        session.query("SELECT 1")


@pytest.mark.parametrize("to_server", [to_own_server, to_foreign_server])
def test_a_worker_is_seen_while_its_row_is_fresh(
    to_server: Callable[[str], Dial], database_url: str
) -> None:
    with closing(Presence(to_server(database_url), "blue")) as presence:
        assert presence.answers()
        assert not presence.sees("bulk", os.getpid(), age_max_s=0)
        row = (
            "INSERT INTO relais.workers (id, name, queue, colour, version, host, pid, lock_key, seen_at)"
            " VALUES (gen_random_uuid(), 'w', 'bulk', %s, '0', %s, %s, 1, now() - %s * interval '1 s')"
        )
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(row, ("green", socket.gethostname(), os.getpid(), 0))
            connection.execute(row, ("blue", "elsewhere", os.getpid(), 0))
            connection.execute(row, ("blue", socket.gethostname(), os.getpid(), 60))
            assert not presence.sees("bulk", os.getpid(), age_max_s=0)
            connection.execute(row, ("blue", socket.gethostname(), os.getpid(), 0))
        assert presence.sees("bulk", os.getpid(), age_max_s=0)
        # A child's row speaks for its parent, which is who was started.
        assert presence.sees("bulk", os.getppid(), age_max_s=0)
        assert not presence.sees("critical", os.getpid(), age_max_s=0)


def test_a_server_that_is_gone_does_not_answer() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://u:p@127.0.0.1:{nobody.getsockname()[1]}/d"
        assert not Presence(to_own_server(url), "blue").answers()
