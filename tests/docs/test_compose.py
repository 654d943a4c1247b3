"""The compose files: one service per process, and two colours that are the same but in name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from runtime.settings import Settings
from tasks.kinds import QUEUES
from tests.docs.pages import ROOT

COLOURS = {"blue": 8080, "green": 8090}


def compose(colour: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / f"docker-compose.{colour}.yml").read_text())
    return content


def test_the_colours_differ_in_name_and_ports_only() -> None:
    blue = (ROOT / "docker-compose.blue.yml").read_text()
    green = (ROOT / "docker-compose.green.yml").read_text()
    renamed = blue.replace("blue", "green").replace("- 127.0.0.1:808", "- 127.0.0.1:809")
    assert renamed == green


@pytest.mark.parametrize("colour", COLOURS)
def test_every_process_is_there(colour: str) -> None:
    services = compose(colour)["services"]
    commands = {name: service["command"] for name, service in services.items() if name != "redis"}
    workers = {f"worker-{queue}": ["workers", queue] for queue in QUEUES}
    assert commands == {
        "migrate": ["ledger.migrate", "pre"],
        "gateway": ["gateway"],
        **workers,
        "beat": ["workers.beat"],
        "flower": ["workers.flower"],
    }
    for module, *_ in commands.values():
        assert find_spec(module) is not None


@pytest.mark.parametrize("colour", COLOURS)
def test_every_variable_is_a_setting(colour: str) -> None:
    for service in compose(colour)["services"].values():
        for name in service["environment"]:
            if name.startswith("RELAIS_"):
                assert name.removeprefix("RELAIS_").lower() in Settings.model_fields


@pytest.mark.parametrize(("colour", "base"), COLOURS.items())
def test_only_loopback_is_published(colour: str, base: int) -> None:
    services = compose(colour)["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == [f"127.0.0.1:{base}:8080", f"127.0.0.1:{base + 1}:8081"]


@pytest.mark.parametrize("colour", COLOURS)
def test_no_secret_has_a_default(colour: str) -> None:
    text = (ROOT / f"docker-compose.{colour}.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "CALLBACK_SECRET", "FLOWER_PASSWORD"):
        assert f"${{RELAIS_{name}:?" in text
        assert f"${{RELAIS_{name}:-" not in text


def test_a_worker_may_finish_before_it_is_killed() -> None:
    grace_s = float(compose("blue")["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().grace_s


def test_the_image_holds_every_package_that_runs() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for package in (
        "runtime",
        "ledger",
        "tasks",
        "relais_kinds",
        "doorbell",
        "workers",
        "gateway",
        "ops",
    ):
        assert f"COPY {package} {package}" in dockerfile
        assert f"!{package}\n" in ignored
