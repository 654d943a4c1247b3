"""Lines that arrive in crumbs: no more work than for whole ones, and memory that is accounted for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body_memory import BodyMemory
from gateway.callers import Caller
from gateway.errors import Problem
from gateway.ndjson import LongLine, lines

MIB = 1_048_576
CALLER = Caller(tenant="default", name="crumbs", role="producer")


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def cut(body: bytes, *, size: int, line_max_bytes: int = 100 * MIB) -> list[bytes]:
    async with BodyMemory(400 * MIB).room(CALLER) as room:
        chunks = pieces(body, size)
        return [line async for line in lines(chunks, line_max_bytes=line_max_bytes, room=room)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_lines_are_the_same_however_they_arrive(size: int) -> None:
    assert await cut(b"a\r\n\nbc\nd", size=size) == [b"a", b"", b"bc", b"d"]
    assert await cut(b"a\n", size=size) == [b"a"]
    assert await cut(b"abc\nabc", size=size, line_max_bytes=3) == [b"abc", b"abc"]
    with pytest.raises(LongLine):
        await cut(b"a\nabcd", size=size, line_max_bytes=3)
    with pytest.raises(LongLine):
        await cut(b"abcd\na", size=size, line_max_bytes=3)


async def test_a_line_in_crumbs_costs_what_its_length_costs() -> None:
    async def seconds(length: int) -> float:
        began = time.process_time()
        await cut(b"x" * length, size=1_000)
        return time.process_time() - began

    short, long = await seconds(4 * MIB), await seconds(32 * MIB)
    assert (
        long < 30 * short + 0.1
    )  # eight times as much; 64 times, where each crumb copies the line


async def test_a_line_that_has_not_ended_takes_room_and_gives_it_back() -> None:
    memory = BodyMemory(4 * MIB)
    async with memory.room(CALLER) as room:

        async def body() -> AsyncIterator[bytes]:
            yield b"x" * MIB
            assert memory._taken == MIB
            yield b"x" * MIB
            assert memory._taken == 2 * MIB
            yield b"x\nxyz"
            assert memory._taken == 3

        assert len([line async for line in lines(body(), line_max_bytes=9 * MIB, room=room)]) == 2
    assert memory._taken == 0


async def test_what_there_is_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.body_memory.ANSWER_WITHIN_S", 0.05)
    async with BodyMemory(2 * MIB).room(CALLER) as room:
        with pytest.raises(Problem, match="Request bodies take all the memory"):
            _ = [
                x
                async for x in lines(
                    pieces(b"x" * 3 * MIB, 1_000), line_max_bytes=9 * MIB, room=room
                )
            ]


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))),
    st.integers(1, 7),
)
async def test_lines_survive_any_cut(wanted: list[bytes], size: int) -> None:
    whole = b"\n".join(wanted)
    found = await cut(whole, size=size, line_max_bytes=100)
    assert found == whole.split(b"\n")[: len(found)]
    assert b"\n".join(found) == whole.removesuffix(b"\n") or not whole


async def test_a_long_line_is_noticed_before_its_end() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 50
        pytest.fail("all of it was read")

    async with BodyMemory(MIB).room(CALLER) as room:
        with pytest.raises(LongLine):
            [line async for line in lines(chunks(), line_max_bytes=100, room=room)]
