"""Caps and depth, down to the bytes on the wire."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import body
from gateway.errors import Problem

if TYPE_CHECKING:
    from tests.gateway.process import Gateway

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(item) for item in value), default=0)
    return 0


@given(VALUES, st.integers(0, 6), st.booleans())
def test_depth_is_measured_without_parsing(value: Any, max_depth: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if depth_of(value) <= max_depth:
        body.check_depth(text, max_depth=max_depth)
    else:
        with pytest.raises(Problem):
            body.check_depth(text, max_depth=max_depth)


@given(st.lists(VALUES, max_size=4), st.integers(0, 6), st.sampled_from([None, 2]))
async def test_an_array_is_cut_into_its_items(
    values: list[Any], max_depth: int, indent: int | None
) -> None:
    text = json.dumps(values, indent=indent).encode()
    if max(map(depth_of, values), default=0) > max_depth or b"\\u0000" in text:
        with pytest.raises(Problem):
            await body.cut_array(text, items_max=9, max_depth=max_depth)
    else:
        found = await body.cut_array(text, items_max=9, max_depth=max_depth)
        assert [json.loads(text[place]) for place in found] == values


@given(st.text(alphabet='[]{},:"\\ 1a', max_size=12).map(lambda inner: f"[{inner}".encode()))
async def test_what_is_cut_is_an_array_for_every_parser(text: bytes) -> None:
    try:
        found = await body.cut_array(text, items_max=99, max_depth=9)
    except Problem:
        return
    assert json.loads(text) == [json.loads(text[place]) for place in found]


@pytest.mark.parametrize(
    "number",
    ["1e309", "-1e309", "1" * 310, "-" + "9" * 400, "1" * 250 + "e90", "1" * 200 + "e1000"],
)
def test_numbers_beyond_a_double_are_refused(number: str) -> None:
    for text in (number, f'{{"a": [{number}]}}'):
        with pytest.raises(Problem) as refused:
            body.parse(text.encode(), max_depth=8)
        assert refused.value.status in {400, 422}


@pytest.mark.parametrize("number", ["1e308", "1" * 308, "0." + "1" * 400, "1e-4000"])
def test_numbers_that_a_double_can_hold_are_taken(number: str) -> None:
    assert body.parse(number.encode(), max_depth=8) == json.loads(number)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        body.parse(data, max_depth=8)
    except Problem as problem:
        assert problem.status in {400, 422}  # noqa: PT017


@given(st.sampled_from([b'"', b'\\"', b'"\\', b"[", b'["\\"']), st.integers(1, 3000))
def test_unclosed_strings_take_no_longer(piece: bytes, times: int) -> None:
    with pytest.raises(Problem):
        body.parse(b"[" * 10 + piece * times, max_depth=8)


@given(VALUES.filter(lambda value: "\0" not in json.dumps(value).encode().decode("unicode_escape")))
def test_what_is_fine_is_kept(value: Any) -> None:
    assert body.parse(json.dumps(value).encode(), max_depth=100) == value or value != value  # noqa: PLR0124


async def talk(gateway: Gateway, head: str, *, send: int, key: str | None = "producer") -> bytes:
    """Send `head` and up to `send` bytes; what was answered, and how much was taken of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.gateway_port)
    credentials = f"Authorization: Bearer {gateway.keys[key]}\r\n" if key else ""
    writer.write(
        f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n{credentials}"
        f"Content-Type: application/json\r\n{head}\r\n\r\n".encode()
    )
    sent = 0

    async def pour() -> None:
        nonlocal sent
        chunked = "chunked" in head
        block = b"x" * 65_536
        try:
            while sent < send:
                writer.write(b"10000\r\n" + block + b"\r\n" if chunked else block)
                await writer.drain()
                sent += len(block)
        except ConnectionError:
            pass

    pouring = asyncio.create_task(pour())
    answer = b""
    async with asyncio.timeout(10):
        # To whoever goes on sending, the reset that cuts it off may overtake the answer.
        with suppress(ConnectionResetError):
            answer = await reader.readuntil(b"\r\n\r\n")
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
    assert sent < send or not send
    return answer


async def test_a_declared_giant_is_refused_unread(gateway: Gateway) -> None:
    answer = await talk(gateway, "Content-Length: 99999999999", send=0)
    assert b" 413 " in answer
    assert b"connection: close" in answer.lower()


async def test_an_undeclared_giant_is_cut_off(gateway: Gateway) -> None:
    answer = await talk(gateway, "Transfer-Encoding: chunked", send=400_000_000)
    assert b" 413 " in answer or not answer


async def test_strangers_are_refused_before_their_body(gateway: Gateway) -> None:
    answer = await talk(gateway, "Content-Length: 500000", send=0, key=None)
    assert b" 401 " in answer


async def test_a_slightly_large_body_sees_its_answer(gateway: Gateway) -> None:
    async with gateway.async_client("producer") as client:
        answer = await client.post(
            "/api/v1/jobs",
            content=b'{"kind":"' + b"x" * 3_000_000 + b'"}',
            headers={"content-type": "application/json"},
        )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
