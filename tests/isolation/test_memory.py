"""All isolated processes of a worker together stay within a limit; what is too many waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import Settings
from tasks.errors import RenderError
from tasks.outcomes import Succeeded
from tests.isolation.processes import children_of
from workers.isolation import memory
from workers.isolation.pool import HandlerRaised, IsolationPool

MIB = 1 << 20
GREEDY = "{% set ns = namespace(all=[]) %}{% for i in range(10000) %}{% set ns.all = ns.all + ['x' * 1000000 ~ i] %}{% endfor %}"


def limited(settings: Settings, **changed: int) -> Settings:
    return settings.model_copy(update=changed)


async def test_as_many_render_at_once_as_fit_into_the_memory_for_all(
    isolated_settings: Settings,
) -> None:
    settings = limited(
        isolated_settings, render_memory_bytes=100 * MIB, isolated_memory_total_bytes=800 * MIB
    )
    async with IsolationPool(settings, size=8) as pool:
        calls = [pool.call("render", {"fields": {"a": f"{number}"}}, 30) for number in range(8)]
        assert await asyncio.gather(*calls) == [{"a": f"{number}"} for number in range(8)]
        assert len(children_of(os.getpid())) == 2


async def test_greedy_templates_fail_with_the_limit_and_others_wait_for_their_turn(
    isolated_settings: Settings,
) -> None:
    settings = limited(
        isolated_settings, render_memory_bytes=100 * MIB, isolated_memory_total_bytes=400 * MIB
    )
    async with IsolationPool(settings, size=8) as pool:
        greedy = [pool.call("render", {"fields": {"a": GREEDY}}, 30) for _ in range(3)]
        modest = [pool.call("render", {"fields": {"a": "modest"}}, 30) for _ in range(5)]
        *failed, first, second, third, fourth, fifth = await asyncio.gather(
            *greedy, *modest, return_exceptions=True
        )
    assert first == second == third == fourth == fifth == {"a": "modest"}
    for error in failed:
        assert isinstance(error, RenderError)
        assert "it needs more memory than allowed" in error.sentence
        assert error.remedy == "Its process may take 100 MiB: RELAIS_RENDER_MEMORY_BYTES."


async def test_a_handler_that_needs_too_much_memory_is_told_the_limit(
    isolated_settings: Settings, fields: Callable[..., dict[str, Any]]
) -> None:
    settings = limited(
        isolated_settings, isolated_memory_bytes=600 * MIB, isolated_memory_total_bytes=1
    )
    async with IsolationPool(settings, size=3) as pool:
        script = {"mode": "memory", "size": 2_000 * MIB}
        with pytest.raises(HandlerRaised, match=r"MemoryError.*600 MiB.*ISOLATED_MEMORY_BYTES"):
            await pool.run_kind("test.scripted", script, fields(), 30)
        script = {"mode": "memory", "size": 1_000_000}
        modest = [pool.run_kind("test.scripted", script, fields(), 30) for _ in range(3)]
        assert await asyncio.gather(*modest) == [Succeeded({"bytes": 1_000_000})] * 3
        assert len(children_of(os.getpid())) == 1


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": str(64 * MIB)}),
        ("0::/seen/by/the/host", {"memory.max": str(64 * MIB)}),
        ("4:cpu,memory:/x\n3:pids:/x", {"memory/x/memory.limit_in_bytes": str(64 * MIB)}),
    ],
)
def test_the_memory_of_a_container_counts_where_it_has_less_than_the_machine(
    tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    (tmp_path / "own").write_text(groups + "\n")
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    found = memory.of_machine_bytes(cgroups=tmp_path / "cgroup", own=tmp_path / "own")
    assert found == 64 * MIB


def test_without_control_groups_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    found = memory.of_machine_bytes(cgroups=tmp_path / "none", own=tmp_path / "none")
    assert found == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_by_default_they_have_the_memory_of_the_machine(isolated_settings: Settings) -> None:
    whole = memory.of_machine_bytes()
    fit = memory.at_once("function", isolated_settings, wanted=10_000)
    assert fit == max(1, whole // 4 // isolated_settings.render_memory_bytes)
