"""Killing, adopting, refusing: the supervisor and its services as processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL

import psycopg
import pytest

from ops.stack import Valkey
from ops.stack.processes import Identity
from tests.stack.cluster import CHECKOUT, Cluster
from tests.waiting import block_until


def test_up_status_down(cluster: Cluster) -> None:
    done = cluster.up("redis", "inbox")
    assert done.returncode == 0, done.stderr
    seen = json.loads(cluster.run("status", "--json").stdout)
    assert seen["stack"] == "running"
    assert seen["ready"]
    assert {one["name"]: one["state"] for one in seen["services"]} == {
        "redis": "healthy",
        "inbox": "healthy",
    }
    assert seen["urls"]["inbox"] == f"http://127.0.0.1:{cluster.base['blue'] + 2}"
    assert all(one["memory_bytes"] > 0 for one in seen["services"])
    again = cluster.up("redis", "inbox")
    assert again.returncode == 0
    assert "already up" in again.stdout
    assert_private(cluster.data / "logs")
    assert_private(cluster.data / "shared" / "inbox")
    pids = [one["pid"] for one in seen["services"]] + [seen["supervisor"]["pid"]]
    identities = [Identity.of(pid) for pid in pids]
    down = cluster.down()
    assert down.returncode == 0
    assert "stopped redis" in down.stdout
    assert not any(one and one.alive() for one in identities)
    assert cluster.status()["stack"] == "down"


def assert_private(folder: Path) -> None:
    """Nobody but the owner gets in, or reads a file that is there."""
    for path in (folder, *folder.rglob("*")):
        assert not path.stat().st_mode & 0o077, path


def test_down_says_so_where_nothing_runs(cluster: Cluster) -> None:
    done = cluster.down()
    assert done.returncode == 0
    assert "blue is not running" in done.stdout


def test_a_killed_service_is_started_again_and_status_shows_it(cluster: Cluster) -> None:
    cluster.up("redis")
    first = cluster.service("redis")
    os.kill(first["pid"], SIGKILL)
    second = block_until(
        lambda: (
            (one := cluster.service("redis")).get("restarts") and one["state"] == "healthy" and one
        )
    )
    assert second["pid"] != first["pid"]
    assert second["restarts"] == 1
    assert second["last_exit"] == "SIGKILL"
    assert second["last_exit_at"]


def test_a_worker_is_healthy_soon_after_a_storm_of_kills(cluster: Cluster) -> None:
    assert cluster.up("worker-bulk").returncode == 0
    for killed in range(1, 6):
        os.kill(block_until(lambda: cluster.service("worker-bulk").get("pid")), SIGKILL)
        block_until(lambda: cluster.service("worker-bulk")["restarts"] == killed)  # noqa: B023
    # Its own start, and 4 s at most before it.
    block_until(lambda: cluster.service("worker-bulk")["state"] == "healthy", within_s=12)


def test_the_next_up_adopts_what_a_killed_supervisor_left(cluster: Cluster) -> None:
    cluster.up("redis", "inbox")
    before = cluster.status()
    os.kill(before["supervisor"]["pid"], SIGKILL)
    block_until(lambda: cluster.status()["stack"] == "orphaned")
    assert cluster.up("redis", "inbox").returncode == 0
    after = cluster.status()
    assert after["supervisor"]["pid"] != before["supervisor"]["pid"]
    assert [one["pid"] for one in after["services"]] == [one["pid"] for one in before["services"]]
    # An adopted service is kept like any other.
    os.kill(cluster.service("redis")["pid"], SIGKILL)
    block_until(lambda: cluster.service("redis").get("restarts") == 1)


def test_what_was_started_otherwise_is_replaced_not_adopted(cluster: Cluster) -> None:
    cluster.up("redis", "inbox")
    before = {one["name"]: Identity.of(one["pid"]) for one in cluster.status()["services"]}
    os.kill(cluster.status()["supervisor"]["pid"], SIGKILL)
    block_until(lambda: cluster.status()["stack"] == "orphaned")
    assert cluster.up("redis", "inbox", RELAIS_LOG_LEVEL="WARNING").returncode == 0
    replaced, kept = before["inbox"], before["redis"]
    assert replaced is not None
    assert kept is not None
    assert not replaced.alive()
    # What the change does not concern goes on.
    assert kept.alive()


def test_down_cleans_up_after_a_killed_supervisor(cluster: Cluster) -> None:
    cluster.up("redis", "inbox")
    seen = cluster.status()
    identities = [Identity.of(one["pid"]) for one in seen["services"]]
    os.kill(seen["supervisor"]["pid"], SIGKILL)
    block_until(lambda: cluster.status()["stack"] == "orphaned")
    done = cluster.down()
    assert done.returncode == 0
    assert "stopped inbox" in done.stdout
    assert not any(one and one.alive() for one in identities)


def test_a_port_in_use_is_one_clear_error_and_starts_nothing(cluster: Cluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cluster.base["blue"] + 4))
        taken.listen()
        done = cluster.up("redis", "inbox")
    assert done.returncode == 1
    assert f"Port {cluster.base['blue'] + 4}, which redis needs, is in use by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "Traceback" not in done.stderr
    assert cluster.status()["stack"] == "down"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_one_clear_error(cluster: Cluster) -> None:
    cluster.data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m,mode=0711", "tmpfs", str(cluster.data)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        done = cluster.up("redis")
        assert done.returncode == 1
        assert "MB are free" in done.stderr
        assert "--data-dir" in done.stderr
    finally:
        subprocess.run(["umount", str(cluster.data)], check=True)


def test_a_service_that_cannot_start_is_named_with_its_last_words(cluster: Cluster) -> None:
    (cluster.data / "shared").mkdir(parents=True)
    # The inbox wants a folder there.
    (cluster.data / "shared" / "inbox").write_text("in the way")
    done = cluster.up("inbox")
    assert done.returncode == 1
    assert "inbox is" in done.stderr
    assert "./relais logs inbox" in done.stderr


def test_an_external_redis_is_asked_but_never_stopped(cluster: Cluster) -> None:
    with Valkey(cluster.data.parent / "own") as own:
        assert cluster.up("redis", RELAIS_REDIS_URL=own.url).returncode == 0
        seen = cluster.service("redis")
        assert seen["kept"] == "outside"
        assert seen["pid"] is None
        assert seen["address"] == f"127.0.0.1:{own.port}"
        cluster.down()
        assert own.ping()


def test_two_colours_share_what_is_shared_and_the_last_one_stops_it(cluster: Cluster) -> None:
    shared = ("postgres", "inbox")
    assert cluster.up(*shared, "redis", colour="blue").returncode == 0
    # Started from another shell: nothing of that may keep green from taking over.
    assert cluster.up(*shared, "redis", colour="green", RELAIS_COLOUR="blue").returncode == 0
    first = {name: cluster.service(name) for name in shared}
    for name in shared:
        seen = cluster.service(name, colour="green")
        assert seen["kept"] == "other"
        assert seen["address"] == first[name]["address"]
    assert (
        cluster.service("redis")["address"] != cluster.service("redis", colour="green")["address"]
    )
    cluster.down(colour="blue")
    for name in shared:
        taken_over = cluster.kept_here(name, colour="green")
        assert taken_over["pid"] == first[name]["pid"]
    identities = [Identity.of(one["pid"]) for one in first.values()]
    cluster.down(colour="green")
    assert not any(one and one.alive() for one in identities)


def test_a_killed_keeper_of_shared_services_is_replaced_by_the_other_colour(
    cluster: Cluster,
) -> None:
    cluster.up("postgres", colour="blue")
    cluster.up("postgres", colour="green")
    blue = cluster.status()
    os.kill(blue["supervisor"]["pid"], SIGKILL)
    taken_over = cluster.kept_here("postgres", colour="green")
    assert taken_over["pid"] == blue["services"][0]["pid"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_an_ordinary_user_can_run_it_too(cluster: Cluster) -> None:
    folder = cluster.data.parent
    os.chown(folder, 1000, 1000)
    words = ("-m", "ops.cli", "up", "-d", "--only", "postgres", "--only", "redis")
    python = Path("/usr/bin/python3")
    if not python.exists() or not os.access(CHECKOUT, os.R_OK):
        pytest.skip("no interpreter that an ordinary user may run")
    site = Path(psycopg.__file__).parent.parent
    env = {**cluster.env, "PYTHONPATH": f"{CHECKOUT}:{site}", "RELAIS_DATA_DIR": str(cluster.data)}
    base = ("--port-base", str(cluster.base["blue"]))
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    done = subprocess.run(
        [*user, str(python), *words, *base],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (cluster.data / "secrets.json").stat().st_uid == 1000
    assert {one["state"] for one in cluster.status()["services"]} == {"healthy"}


@pytest.mark.parametrize("shell", ["", "trap '' INT;"], ids=["foreground", "background"])
def test_signals_reach_an_attached_up_and_it_stops_everything(cluster: Cluster, shell: str) -> None:
    """Also where a shell has SIGINT ignored, as for what it starts in the background."""
    start = ["sh", "-c", f'{shell} exec "$@"', "sh"]
    words = [*start, sys.executable, "-m", "ops.cli", "up", "--only", "redis"]
    base = ["--port-base", str(cluster.base["blue"])]
    env = {**cluster.env, "RELAIS_DATA_DIR": str(cluster.data)}
    with subprocess.Popen([*words, *base], env=env, stdout=subprocess.PIPE, text=True) as process:
        seen = block_until(
            lambda: (one := cluster.service("redis")).get("state") == "healthy" and one
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert Identity.of(seen["pid"]) is None
    assert cluster.status()["stack"] == "down"
