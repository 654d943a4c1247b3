"""Processes in which the gateway has templates compiled and rendered: bounded, and knowing nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gateway import rendering
from gateway.errors import Code, Problem
from gateway.rendering import Rendering
from runtime.settings import Settings
from tests.launcher import ROOT
from workers.isolation.inside import seccomp

if TYPE_CHECKING:
    from pathlib import Path

LOOP = "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3
# As the gateway starts it; what would be a template's work is an attack.
ATTACK = """
import os, socket, subprocess, sys
from workers.isolation import functions
from workers.isolation.inside import once

attempts = {
    "environment": lambda: 1 / any("RELAIS" in name for name in os.environ),
    "secrets": lambda: open(sys.argv[1]).read(),
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "program": lambda: subprocess.run(["/bin/true"], check=True),
    "signal": lambda: os.kill(os.getppid(), 0),
    "memory": lambda: bytearray(1 << 30),
}

def attack(_):
    became = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            became[name] = "done"
        except BaseException as error:
            became[name] = type(error).__name__
    return became

functions.load = lambda name: attack
once.main(["attack", str(os.getppid()), str(256 << 20)])
"""


def working(**changes: Any) -> Rendering:
    return Rendering(Settings.model_validate({"database_url": "postgresql://x/y", **changes}))


@pytest.mark.skipif(not seccomp.is_known_here(), reason="no filter for this machine")
def test_code_that_got_out_of_the_sandbox_reaches_nothing(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text("hidden")
    os.environ["RELAIS_PASSWORD"] = "hidden"
    try:
        environment = rendering._environment()
    finally:
        del os.environ["RELAIS_PASSWORD"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", ATTACK, str(secrets)],
        env=environment,
        input=b"{}",
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout) == {
        "result": {
            "environment": "ZeroDivisionError",  # there is none of ours
            "secrets": "PermissionError",
            "network": "PermissionError",
            "program": "PermissionError",
            "signal": "PermissionError",
            "memory": "MemoryError",
        }
    }


async def test_what_is_wrong_in_a_template_names_its_part() -> None:
    with pytest.raises(Problem) as caught:
        await working().call("compile", {"subject": "x", "html": "\n{{ a"})
    assert (caught.value.code, caught.value.field) == (Code.VALUE_INVALID, "html")
    assert caught.value.sentence.startswith("Template html, line 2: ")


async def test_it_is_stopped_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "RUN_S", 1.0)
    with pytest.raises(Problem, match="took more than 1 s"):
        await working().call("render", {"fields": {"text": LOOP}})


async def test_whoever_gets_no_turn_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "WAIT_S", 0.2)
    work = working()
    running = [
        asyncio.create_task(work.call("render", {"fields": {"text": LOOP}}))
        for _ in range(rendering.AT_ONCE)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as caught:
        await work.call("render", {"fields": {"text": "x"}})
    assert caught.value.code is Code.GATEWAY_BUSY
    assert caught.value.headers["Retry-After"]
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    assert await work.call("render", {"fields": {"text": "x"}}) == {"text": "x"}


async def test_one_that_dies_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "PROGRAM", "no.such.module")
    with pytest.raises(Problem, match="ended the process that worked on it"):
        await working().call("render", {"fields": {"text": "x"}})
