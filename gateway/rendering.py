"""Strangers' templates, compiled, rendered and compared in processes that know no secret.

Each call has a process of its own, which starts in a tenth of a second and ends with its answer:
people preview and save now and then, and nothing is kept warm for them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import Code, Problem
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.settings import Settings

log = logs.logger("gateway")

AT_ONCE = 2
WAIT_S = 4.5  # for a turn
RUN_S = 12.0  # more than the CPU time that a template's parts may take
PROGRAM = "workers.isolation.inside.once"
_HARMLESS = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_FIELD = re.compile(r"Template (subject|html|mjml|text)\b")


class Rendering:
    """Runs functions of templates apart, AT_ONCE of them."""

    def __init__(self, settings: Settings) -> None:
        self._memory_bytes = settings.render_memory_bytes
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def call(self, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The result of `compile`, `render` or `diff`; raises Problem."""
        async with self._turn():
            answer = await self._run(function, json.dumps(arguments).encode())
        if "raised" in answer:
            raise _problem(answer["raised"])
        result: dict[str, Any] = answer["result"]
        return result

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise Problem(
                Code.GATEWAY_BUSY,
                "Other templates are being rendered.",
                remedy="Send the request again in a few seconds.",
                headers={"Retry-After": "2"},
            ) from None
        try:
            yield
        finally:
            self._slots.release()

    async def _run(self, function: str, given: bytes) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", PROGRAM, function, str(os.getpid()), str(self._memory_bytes)),
            env=_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(RUN_S):
                said, _ = await process.communicate(given)
        except TimeoutError:
            sentence = f"The template took more than {RUN_S:g} s and was stopped."
            raise _unfit(sentence) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            answer: dict[str, Any] = json.loads(said)
        except ValueError:
            log.warning("rendering.died", function=function, returncode=process.returncode)
            sentence = "The template ended the process that worked on it."
            raise _unfit(sentence) from None
        return answer


def _environment() -> dict[str, str]:
    known = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    path = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    joined = os.pathsep.join(part for part in path if part)
    return {**known, "PYTHONPATH": joined, "PYTHONUTF8": "1"}


def _problem(raised: dict[str, Any]) -> Problem:
    if "sentence" not in raised:  # not an error of ours: what arose is in no template's language
        log.warning("rendering.failed", error=raised["report"]["type"])
        return _unfit("The template cannot be worked on: it needs too much.")
    field = _FIELD.match(raised["sentence"])
    return Problem(
        Code.VALUE_INVALID,
        raised["sentence"],
        remedy=raised["remedy"] or "Correct the template.",
        field=field[1] if field else None,
    )


def _unfit(sentence: str) -> Problem:
    return Problem(Code.VALUE_INVALID, sentence, remedy="Make it simpler or smaller.")
