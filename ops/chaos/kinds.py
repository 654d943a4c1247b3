"""Kinds for the processes under test: the real ones with shorter waits, and one that kills."""

from __future__ import annotations

import dataclasses
import os
import signal

from pydantic import BaseModel, ConfigDict

from tasks import kinds
from tasks.context import Context
from tasks.kinds import Backoff, kind
from tasks.outcomes import Outcome, Succeeded

MAIL_S = (0.5, 1.0, 2.0, 4.0, 5.0)
CALLBACK_S = (2.0, 4.0, 6.0)  # five tries must outlast a receiver's worst mood


def _hurry(name: str, schedule_s: tuple[float, ...]) -> None:
    """A run takes minutes, not hours: the same kind, with shorter waits between its tries."""
    known = kinds._REGISTRY[name]  # noqa: SLF001 - there is no other need to change a kind
    backoff = Backoff(schedule_s=schedule_s)
    kinds._REGISTRY[name] = dataclasses.replace(known, backoff=backoff)  # noqa: SLF001


class Poison(BaseModel):
    """Nothing to say."""

    model_config = ConfigDict(extra="forbid")


@kind("chaos.poison", payload=Poison, queue="template")
async def poison(_: Poison, __: Context) -> Outcome:
    """End the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Succeeded()


_hurry("email.send", MAIL_S)
_hurry("http.callback", CALLBACK_S)
