"""Code that got out of a template's sandbox finds a process that can reach nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import RenderError
from tasks.outcomes import Failed, Succeeded
from tests import services
from tests.isolation.processes import children_of
from workers.isolation.inside import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.isolation.pool import IsolationPool

ROOT = Path(__file__).parents[2]
# A child of the role `function`, as the fork server makes it, in which the attack runs instead of
# a template.
CHILD = """
import ctypes, encodings.idna, json, os, socket, subprocess, sys
from workers.isolation import protocol
from workers.isolation.inside import child

secrets, tcp, unix = sys.argv[1], (sys.argv[2], int(sys.argv[3])), sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
server = os.getpid()

def past_python():
    if libc.open(secrets.encode(), 0) < 0:
        raise OSError(ctypes.get_errno(), "open")

attempts = {
    "environment": lambda: 1 / any("RELAIS" in name or "SECRET" in name for name in os.environ),
    "secrets": lambda: open(secrets).read(),
    "secrets past Python": past_python,
    "folder": lambda: os.listdir(os.path.dirname(secrets)),
    "another's environment": lambda: open(f"/proc/{server}/environ", "rb").read(),
    "another's memory": lambda: open(f"/proc/{server}/mem", "rb").read(1),
    "deletion": lambda: os.unlink(secrets),
    "TCP": lambda: socket.create_connection(tcp, timeout=2),
    "unix": lambda: socket.socket(socket.AF_UNIX).connect(unix),
    "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "signal": lambda: os.kill(server, 0),
    "fork": lambda: os.fork() or os._exit(0),
    "program": lambda: os.execv("/bin/true", ["true"]),
    "program past Python": lambda: subprocess.run(["/bin/true"], check=True),
}

def attack(_request):
    became = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:
            became[name] = type(error).__name__
        else:
            became[name] = "done"
    return {"result": became}

ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    child.main("function", theirs, lambda _channel: attack, memory_bytes=1 << 30)
theirs.close()
assert protocol.receive(ours) == {"ready": True}
ours.sendall(protocol.pack({"name": "attack"}))
print(json.dumps(protocol.receive(ours)["result"]))
"""

pytestmark = pytest.mark.skipif(
    not seccomp.is_known_here(), reason="there is no filter for this machine"
)


def test_nothing_is_in_reach_of_what_got_out_of_a_template(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text('{"callback_secret": "whsec_c2VjcmV0"}')
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        name = os.path.relpath(tmp_path / "redis.sock", ROOT)  # a whole path may be too long
        unix.bind(str(tmp_path / "redis.sock"))
        unix.listen()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, secrets, "127.0.0.1", str(tcp.getsockname()[1]), name],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
    became = json.loads(done.stdout)
    assert became.pop("environment") == "ZeroDivisionError"  # there is no such variable
    assert became == dict.fromkeys(became, "PermissionError")
    assert len(became) == 13
    assert secrets.exists()


def test_neither_postgres_nor_redis_answers_it(tmp_path: Path) -> None:
    """The same against the real ones, which answer this process."""
    address = services.redis_url().rpartition("@")[2].partition("/")[0]
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5):
        pass
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "none", host, port, "none"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["TCP"] == "PermissionError"


@pytest.mark.parametrize(
    ("source", "variables", "text"),
    [
        ("{{ 'one two three'|wordwrap(7) }}", {}, "one two\nthree"),
        ("{{ x|tojson }}", {"x": {"a": [1.5, None]}}, '{"a": [1.5, null]}'),
        ("{{ 'https://a.example'|urlize }}", {}, None),
        ("{{ x|xmlattr }}", {"x": {"a": "b"}}, ' a="b"'),
        ("{{ 3.14159|round(2) }} {{ 1e6|filesizeformat }} {{ x|urlencode }}", {"x": "é"}, None),
        ("{% for g in x|groupby('a') %}{{ g.grouper }}{% endfor %}", {"x": [{"a": 1}]}, "1"),
        (
            "{{ 'é'.encode('utf-8')|length }} {{ 'x'|center(3) }}{{ x|striptags }}",
            {"x": "<b>"},
            None,
        ),
    ],
)
async def test_what_templates_may_do_they_still_do(
    pool: IsolationPool, source: str, variables: dict[str, Any], text: str | None
) -> None:
    rendered = await pool.call("render", {"fields": {"a": source}, "variables": variables}, 10)
    assert text is None or rendered["a"] == text


async def test_errors_still_name_the_line(pool: IsolationPool) -> None:
    fields = {"text": "one\n{{ 1 / x }}"}
    with pytest.raises(RenderError, match="line 2: division by zero"):
        await pool.call("render", {"fields": fields, "variables": {"x": 0}}, 10)


async def test_a_job_in_a_process_of_its_own_renders_in_one_that_knows_nothing(
    pool: IsolationPool, fields: Callable[..., dict[str, Any]]
) -> None:
    """The process for kinds has the settings, and is not closed: no template belongs there."""
    payload = {"template": "Hello {{ name }}", "variables": {"name": "Zoë"}}
    outcome = await pool.run_kind("template.render", payload, fields("template.render"), 20)
    assert outcome == Succeeded({"output": "Hello Zoë"})
    environments = [
        Path(f"/proc/{child}/environ").read_bytes()  # noqa: ASYNC240 - a file of the kernel
        for child in children_of(os.getpid())
    ]
    assert sorted(b"RELAIS_DATABASE_URL" in environ for environ in environments) == [False, True]
    failed = await pool.run_kind(
        "template.render", {"template": "{{ name }}"}, fields("template.render"), 20
    )
    assert isinstance(failed, Failed)
    assert "line 1: the variable 'name' is missing" in failed.reason
