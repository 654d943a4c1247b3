"""Test kinds that do what their payload says: `test.scripted` and its async twin."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.kinds import Backoff, kind
from tasks.outcomes import Failed, Outcome, RetryLater, Snooze, Succeeded

if TYPE_CHECKING:
    from tasks.context import Context

HANG_S = 3_600.0

Mode = Literal[
    "ok", "error", "hang", "exit", "kill", "snooze",
    "abort", "ask", "big", "context", "fail", "memory", "print", "retry", "spawn", "spin", "system_exit",
]  # fmt: skip


class Script(BaseModel):
    """What the handler shall do."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode = "ok"
    ok_from_attempt: int | None = None  # from this attempt on, `mode` is ok
    result: dict[str, Any] = {}
    text: str = "as told"
    seconds: float = 0.0  # before anything else; of a snooze
    exit_code: int = 3
    signal: int = signal.SIGKILL
    size: int = 1_000_000
    effects: Path | None = None  # a file that gets one durable line "JOB ATTEMPT PID" a run


def note_effect(path: Path | None, context: Context) -> None:
    """Append a line that survives whatever happens next."""
    if path is None:
        return
    line = f"{context.job_id} {context.attempt} {os.getpid()}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def follow(script: Script, context: Context) -> Outcome:  # noqa: C901, PLR0912 - one case a mode
    """Everything that both twins do alike."""
    note_effect(script.effects, context)
    mode = script.mode
    if script.ok_from_attempt is not None and context.attempt >= script.ok_from_attempt:
        mode = "ok"
    match mode:
        case "ok" | "hang":
            return Succeeded({"attempt": context.attempt, **script.result})
        case "error":
            raise ValueError(script.text)
        case "retry":
            return RetryLater(script.text)
        case "fail":
            return Failed(script.text)
        case "snooze":
            return Snooze(script.seconds, script.text)
        case "exit":
            os._exit(script.exit_code)
        case "system_exit":
            raise SystemExit(script.exit_code)
        case "kill":
            os.kill(os.getpid(), script.signal)
        case "abort":
            os.abort()
        case "spin":
            while True:
                pass
        case "memory":
            hoard = bytearray(script.size)
            return Succeeded({"bytes": len(hoard)})
        case "big":
            return Succeeded({"text": "x" * script.size})
        case "print":
            print(script.text, flush=True)
            return Succeeded({"printed": script.text})
        case "ask":
            return Succeeded({"owned": context.still_owned()})
        case "context":
            return Succeeded({"kind": context.kind, "tenant": context.tenant, "tags": context.tags})
        case "spawn":
            child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", str(HANG_S))  # noqa: S606
            return Succeeded({"pid": child})
    message = "the signal did not end the process"
    raise AssertionError(message)


@kind(
    "test.scripted",
    payload=Script,
    queue="template",
    timeout_s=30.0,
    backoff=Backoff(base_s=0.05, cap_s=0.2),
)
def scripted(script: Script, context: Context) -> Outcome:
    """Does what it is told, in a process of its own."""
    time.sleep(HANG_S if script.mode == "hang" else script.seconds * (script.mode != "snooze"))
    return follow(script, context)


@kind(
    "test.scripted_async",
    payload=Script,
    queue="template",
    timeout_s=30.0,
    backoff=Backoff(base_s=0.05, cap_s=0.2),
)
async def scripted_async(script: Script, context: Context) -> Outcome:
    """Does what it is told, in the worker's event loop."""
    if script.mode == "hang":
        note_effect(script.effects, context)
        await asyncio.sleep(HANG_S)
    await asyncio.sleep(script.seconds * (script.mode != "snooze"))
    return follow(script, context)
