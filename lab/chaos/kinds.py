"""Kinds for the processes under test: the real ones with shorter waits, and the harness's own.

`chaos.task` does what its payload says and notes each run in the history. `chaos.outcome` and its
twin in a process of its own end in ways that no handler should; `chaos.poison` kills.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lab.chaos.configuration import HISTORY_VARIABLE
from lab.chaos.endings import Mode, misbehave
from lab.chaos.journal import Journal
from tasks import kinds
from tasks.context import Context
from tasks.kinds import Backoff, kind
from tasks.outcomes import Failed, Outcome, RetryLater, Snooze, Succeeded

MAIL_S = (0.5, 1.0, 2.0, 4.0, 5.0)
CALLBACK_S = (2.0, 4.0, 6.0)  # five tries must outlast a receiver's worst mood
SOON = Backoff(schedule_s=(0.3,))
GATE_EVERY_S = 0.5


def _hurry(name: str, schedule_s: tuple[float, ...]) -> None:
    """A run takes minutes, not hours: the same kind, with shorter waits between its tries."""
    known = kinds._REGISTRY[name]  # noqa: SLF001 - there is no other need to change a kind
    backoff = Backoff(schedule_s=schedule_s)
    kinds._REGISTRY[name] = dataclasses.replace(known, backoff=backoff)  # noqa: SLF001


class Poison(BaseModel):
    """Nothing to say."""

    model_config = ConfigDict(extra="forbid")


class Task(BaseModel):
    """What to do, in this order; each run is noted under `key`, where there is one."""

    model_config = ConfigDict(extra="forbid")

    key: str = ""
    gate: str = ""  # snooze until this gate is open
    fails_until: str = ""  # fail for good until this gate is open
    fails: bool = False  # fail for good
    blocks_s: float = 0.0  # hold up the whole event loop
    holds_s: float = 0.0
    retries: int = 0  # so many attempts end in "later"


class Misdeed(BaseModel):
    """How to end; each run is noted under `key`."""

    model_config = ConfigDict(extra="forbid")

    key: str
    mode: Mode


def gates() -> Path:
    """The folder in which an open gate is a file."""
    return Path(os.environ[HISTORY_VARIABLE]) / "gates"


@kind("chaos.poison", payload=Poison, queue="template")
async def poison(_: Poison, __: Context) -> Outcome:
    """End the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Succeeded()


@kind("chaos.task", payload=Task, queue="template", timeout_s=60.0, backoff=SOON)
async def task(payload: Task, context: Context) -> Outcome:
    """Do what the payload says."""
    if payload.gate and not (gates() / payload.gate).exists():
        return Snooze(GATE_EVERY_S, "its gate is shut")
    _note("began", payload.key, context)
    if payload.fails or (payload.fails_until and not (gates() / payload.fails_until).exists()):
        return Failed("as it was told")
    time.sleep(payload.blocks_s)  # noqa: ASYNC251 - this is the fault
    await asyncio.sleep(payload.holds_s)
    _note("ended", payload.key, context)
    if context.attempt <= payload.retries:
        return RetryLater("later, as it was told", delay_s=0.3)
    return Succeeded()


@kind("chaos.outcome", payload=Misdeed, queue="template", max_attempts=2, backoff=SOON)
async def outcome(payload: Misdeed, context: Context) -> Outcome:
    """End badly, in the worker's event loop."""
    _note("began", payload.key, context)
    if payload.mode == "cancelled":
        foreign = asyncio.create_task(asyncio.sleep(60))
        foreign.cancel()
        await foreign
    return misbehave(payload.mode, attempt=context.attempt)


@kind("chaos.outcome_apart", payload=Misdeed, queue="template", max_attempts=2, backoff=SOON)
def outcome_apart(payload: Misdeed, context: Context) -> Outcome:
    """End badly, in a process of its own."""
    _note("began", payload.key, context)
    return misbehave(payload.mode, attempt=context.attempt)


@lru_cache(maxsize=1)
def _journal() -> Journal:
    return Journal(Path(os.environ[HISTORY_VARIABLE]) / "effects.jsonl")


def _note(what: str, key: str, context: Context) -> None:
    if key:
        _journal().note(what, key=key, attempt=context.attempt, pid=os.getpid())


_hurry("email.send", MAIL_S)
_hurry("http.callback", CALLBACK_S)
