"""Handlers that end as no handler should, among others that do: one fault for each way to end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from lab.chaos import journal
from lab.chaos.endings import ENDS, MODES, Mode
from lab.chaos.faults.asking import Asking
from lab.chaos.faults.fault import HOOK_WITHIN_S
from lab.chaos.waiting import comes

if TYPE_CHECKING:
    from lab.chaos.faults.fault import Fault

BAD = 8  # as many as a worker has slots
GOOD = 24
SURROGATE = '{{ "\\ud800" }}'  # a template that makes what is no text


class Bad(Asking):
    """Jobs that end badly, each as it must, handed over among innocents."""

    service: ClassVar[str] = "load"
    bad: list[dict[str, Any]]

    async def inject(self) -> None:
        """Hand them over all at once."""
        each = [self.make_bad(number) for number in range(BAD)]
        self.bad = [job for job, _ in each]
        each += [(self.make_good(), "succeeded") for _ in range(GOOD)]
        self.rng.shuffle(each)
        await asyncio.gather(*(self.client.post(job, ends=ends) for job, ends in each))

    async def last(self) -> None:
        """Until the bad ones have run."""
        self.is_met = await comes(self.have_run, within_s=HOOK_WITHIN_S)

    def make_bad(self, number: int) -> tuple[dict[str, Any], str]:
        """One that ends badly, and the end that it must come to."""
        raise NotImplementedError

    def make_good(self) -> dict[str, Any]:
        """One that must succeed."""
        return self.task()

    async def have_run(self) -> bool:
        """Whether every bad one has begun."""
        entries = journal.read(self.cluster.history / "effects.jsonl")
        return {job["idempotency_key"] for job in self.bad} <= {entry["key"] for entry in entries}


class BadOutcome(Bad):
    """The handler ends as `mode` says, in the worker's event loop or in a process of its own."""

    mode: ClassVar[Mode]

    def make_bad(self, number: int) -> tuple[dict[str, Any], str]:
        """In turn."""
        kind = "chaos.outcome_apart" if number % 2 else "chaos.outcome"
        job = self.job(kind, {"mode": self.mode}, queue="template")
        job["payload"]["key"] = job["idempotency_key"]
        return job, ENDS[self.mode]


class TemplateOfSurrogates(Bad):
    """Templates that make what is no text, of mails and by themselves, among mails."""

    kind = "template_surrogates"

    def make_bad(self, number: int) -> tuple[dict[str, Any], str]:
        """By itself, which is made plain text; in a subject or in a text, which is no mail."""
        if number % 2:
            job = self.job("template.render", {}, queue="bulk")
            job["payload"]["template"] = f"Bonjour {job['idempotency_key']}{SURROGATE}"
            return job, "succeeded"
        field = "text" if number % 4 else "subject"
        return self._mail(variables={"name": "Ada"}, **{field: f"Bonjour {SURROGATE}"}), "failed"

    def make_good(self) -> dict[str, Any]:
        """A mail like any other."""
        return self._mail()

    async def have_run(self) -> bool:
        """Whether every bad one was tried; mails note no runs."""
        tried = {row["key"] for row in await self.rows() if row["attempt"]}
        return {job["idempotency_key"] for job in self.bad} <= tried

    def _mail(self, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        job = self.job("email.send", {}, queue="bulk", max_attempts=60)
        to = f"m.{job['idempotency_key']}@example.org"
        mail = {"from": "Relais <relais@example.org>", "to": [to], "subject": "Order"}
        job["payload"] = {**mail, "text": "It is on its way.", **fields}
        return job


def _of(mode: Mode) -> type[Fault]:
    return type(
        f"Outcome_{mode}",
        (BadOutcome,),
        {"__doc__": f"The handler ends with: {mode}.", "kind": f"outcome_{mode}", "mode": mode},
    )


ALL: tuple[type[Fault], ...] = (*(_of(mode) for mode in MODES), TemplateOfSurrogates)
