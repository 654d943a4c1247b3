"""Python services are forked from one process, and are like any that was started by itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from ops.stack import child, fork_server, logfiles, processes, records, variables
from ops.stack.child import Command
from ops.stack.fork_server import Forked, ForkServer
from ops.stack.processes import Identity
from tests.stack.cluster import Cluster
from tests.waiting import block_until

pytestmark = pytest.mark.skipif(not fork_server.IS_AVAILABLE, reason="services are forked on Linux")

# Tells what it finds in itself, then ends as it is told.
TOY = """
import json, os, signal, sys, threading, time

def main():
    told = {
        "name": __name__,
        "arguments": sys.argv[1:],
        "orig_argv": sys.orig_argv,
        "variables": {name: value for name, value in os.environ.items() if name != "PATH"},
        "cwd": os.getcwd(),
        "session": os.getsid(0) == os.getpid(),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "threads": threading.active_count(),
        "sigterm": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "input": sys.stdin.read(),
    }
    print(json.dumps(told))
    if sys.argv[1] == "sleep":
        time.sleep(600)
    sys.exit(int(sys.argv[1]))

if __name__ == "__main__":
    main()
"""


class Toys:
    """A fork server, and what it is asked to fork."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = records.mark(folder, fork_server.NAME)
        self.server = ForkServer(self.mark)
        self._started: list[Forked] = []
        (folder / "forked_toy.py").write_text(TOY)
        (folder / "sitecustomize.py").write_text("")  # every Python process imports this

    def start(self, what: str, **env: str) -> tuple[Forked, Path]:
        """Start one that ends with exit code `what`, or sleeps; and its log."""
        env = variables.for_process({records.MARK: records.mark(self.folder, what), **env})
        words = (sys.executable, "-m", "forked_toy", what)
        log = self.folder / f"{what}-{len(list(self.folder.iterdir()))}.log"
        with logfiles.to_append(log) as output:
            started = self.server.spawn(Command(words, env, cwd=str(self.folder)), log=output)
        self._started.append(started)
        return started, log

    def end(self) -> None:
        """Kill what is left of it all."""
        records.clear_strays(records.mark(self.folder))
        self.server.close()
        for one in self._started:
            with suppress(ChildProcessError):
                one.poll()


def told(log: Path) -> dict[str, object]:
    block_until(lambda: log.read_text().endswith("\n"))
    found: dict[str, object] = json.loads(log.read_text())
    return found


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toys]:
    folder = tmp_path_factory.mktemp("forked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        made = Toys(folder)
        try:
            yield made
        finally:
            made.end()


def test_what_is_forked_is_as_if_it_had_been_started_by_itself(toys: Toys) -> None:
    started, log = toys.start("3", RELAIS_ONLY_FIRST="secret")
    assert block_until(started.poll) == 3
    seen = told(log)
    assert seen["name"] == "__main__"
    assert seen["arguments"] == ["3"]
    assert seen["orig_argv"] == [sys.executable, "-m", "forked_toy", "3"]
    assert seen["cwd"] == str(toys.folder)
    assert seen["session"]
    assert seen["descriptors"] == 3
    assert seen["threads"] == 1
    assert seen["sigterm"]
    assert seen["input"] == ""


def test_nothing_of_one_services_environment_is_in_another(toys: Toys) -> None:
    first, _ = toys.start("sleep", RELAIS_ONLY_FIRST="secret")
    _, log = toys.start("0", RELAIS_ONLY_SECOND="other")
    found = told(log)["variables"]
    assert isinstance(found, dict)
    assert found["RELAIS_ONLY_SECOND"] == "other"
    assert "RELAIS_ONLY_FIRST" not in found
    assert found.keys() - {"LC_CTYPE"} == (
        variables.for_process({"RELAIS_ONLY_SECOND": "", records.MARK: ""}).keys()
        - {"PATH", "LC_CTYPE"}
    )
    os.kill(first.pid, SIGKILL)
    assert block_until(first.poll) == -SIGKILL


def test_ps_shows_what_runs_and_the_stack_finds_it_by_its_mark(toys: Toys) -> None:
    started, log = toys.start("sleep", RELAIS_FLOWER_PASSWORD="secret")
    told(log)
    words = Path(f"/proc/{started.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert [word.decode() for word in words] == [sys.executable, "-m", "forked_toy", "sleep"]
    mark = records.mark(toys.folder, "sleep")
    assert [one.pid for one in processes.marked(records.MARK, mark)] == [started.pid]
    assert toys.server.identity is not None
    servers = processes.marked(records.MARK, toys.mark)
    assert [one.pid for one in servers] == [toys.server.identity.pid]
    assert len(list(Path(f"/proc/{servers[0].pid}/task").iterdir())) == 1
    os.kill(started.pid, SIGTERM)
    assert block_until(started.poll) == -SIGTERM
    assert child.ending(-SIGTERM) == "SIGTERM"


def test_no_service_is_forked_from_code_that_has_changed_since(toys: Toys) -> None:
    before, log = toys.start("sleep")
    told(log)
    old = toys.server.identity
    assert old is not None
    (toys.folder / "sitecustomize.py").write_text("CHANGED = True\n")
    after, _ = toys.start("0")
    assert block_until(lambda: after.poll() == 0)
    assert toys.server.identity != old
    # Whoever knows how the earlier service ends stays until it has ended.
    assert old.alive()
    os.kill(before.pid, SIGKILL)
    assert block_until(before.poll) == -SIGKILL
    assert old.wait(10.0)


def test_services_outlive_the_process_that_forked_them(toys: Toys) -> None:
    started, log = toys.start("sleep")
    told(log)
    server = toys.server.identity
    assert server is not None
    assert server.send(SIGKILL)
    assert server.wait(10.0)
    for _ in range(2):
        with pytest.raises(ChildProcessError):
            block_until(lambda: started.poll() is not None)
    running = Identity.of(started.pid)
    assert running is not None
    after, _ = toys.start("4")
    assert block_until(after.poll) == 4
    assert running.alive()
    assert running.send(SIGKILL)


def test_a_killed_service_and_a_killed_fork_server_are_started_again(cluster: Cluster) -> None:
    done = cluster.up("flower")
    assert done.returncode == 0, done.stderr
    first = cluster.status()["fork_server"]
    assert first["memory_bytes"] > 0
    assert restarted(cluster, by=SIGKILL)["last_exit"] == "SIGKILL"
    assert cluster.status()["fork_server"]["pid"] == first["pid"]
    os.kill(first["pid"], SIGKILL)
    assert cluster.service("flower")["state"] == "healthy"
    # Nobody is left who could tell how it ended.
    assert restarted(cluster, by=SIGKILL)["last_exit"] == "ended unseen"
    second = block_until(lambda: cluster.status()["fork_server"])
    assert second["pid"] != first["pid"]
    left = [Identity.of(one["pid"]) for one in (second, cluster.service("flower"))]
    assert cluster.down().returncode == 0
    assert not any(one and one.alive() for one in left)


def restarted(cluster: Cluster, *, by: int) -> dict[str, object]:
    """Kill Flower, and what it is when it is healthy again."""
    before = cluster.service("flower")
    os.kill(before["pid"], by)
    found: dict[str, object] = block_until(
        lambda: (
            (one := cluster.service("flower"))["restarts"] > before["restarts"]
            and one["state"] == "healthy"
            and one
        )
    )
    return found
