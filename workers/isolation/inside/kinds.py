"""Runs handlers in a child process: plain `def` ones, and any suspected of killing its worker."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import ValidationError

from ledger import database
from runtime import exporting, logs, settings, telemetry
from runtime.errors import words_of
from tasks import kinds
from tasks.context import Context
from tasks.email import pool as mail_pool
from tasks.errors import KindError, PayloadError
from workers import sealing
from workers.isolation import protocol
from workers.isolation.errors import Interrupted, raise_told

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from tasks.kinds import Kind

    Ask = Callable[[dict[str, Any]], dict[str, Any] | None]

_CONTEXT_FIELDS = {field.name for field in dataclasses.fields(Context)}


class KindRunner:
    """Every kind of this installation, and what their contexts are made of."""

    def __init__(self) -> None:
        self._settings = settings.load()
        self._kinds = kinds.load(self._settings.kinds)
        self._ask: Ask = lambda _question: None
        # Imports the driver, which each child would do otherwise; nothing is connected.
        database.engine(self._settings)
        if exporting.signals():
            importlib.import_module("runtime.otlp")

    def begin(self, ask: Ask) -> None:
        """Start what does not survive a fork; `ask` asks the worker, None if that is gone."""
        self._ask = ask
        logs.configure(
            service="isolated", colour=self._settings.colour, level=self._settings.log_level
        )
        exporting.start("isolated", self._settings)

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one handler; the response frame carries its outcome."""
        kind = self._kinds.get(request["name"])
        if kind is None:
            sentence = f"The isolated process does not know the kind {request['name']!r}."
            raise KindError(sentence, remedy="Add its module to RELAIS_KINDS.")
        payload = _payload(kind, request["payload"])
        context = self._context(request["context"])
        with telemetry.span("isolated", parent=context.traceparent):
            returned = _perform(kind, payload, context)
        # Sealed here, where it was created, and again by the worker, which does not rely on this.
        sealed = sealing.sealed(returned, max_bytes=self._settings.outcome_max_bytes)
        return {"outcome": protocol.outcome_as_json(sealed.outcome)}

    def _context(self, fields: dict[str, Any]) -> Context:
        given = {name: value for name, value in fields.items() if name in _CONTEXT_FIELDS}
        given["job_id"] = UUID(given["job_id"])
        given["tags"] = tuple(given.get("tags", ()))
        given["settings"] = self._settings
        given["database"] = database.engine(self._settings, pool_size=2, name="relais isolated")
        given["isolate"] = self._isolate
        if "still_owned" in _CONTEXT_FIELDS:
            given["still_owned"] = self._still_owned
        return Context(**given)

    def _still_owned(self) -> bool:
        told = self._ask({"ask": "still_owned"})
        return told is not None and bool(told["answer"])

    async def _isolate(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """By the worker, in a process that knows nothing: this one has the settings in it."""
        told = self._ask({"ask": "call", "name": name, "arguments": arguments})
        if told is None:
            raise Interrupted(name, had_begun=True)
        if "raised" in told:
            raise_told(told["raised"])
        answer: dict[str, Any] = told["answer"]
        return answer


def _payload(kind: Kind, payload: dict[str, Any]) -> BaseModel:
    try:
        return kind.payload.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "payload"
        sentence = f"The payload does not fit {kind.name}: {place}: {words_of(first)}."
        raise PayloadError(sentence) from None


def _perform(kind: Kind, payload: BaseModel, context: Context) -> object:
    if inspect.iscoroutinefunction(kind.handler):
        return asyncio.run(_await(kind, payload, context))
    returned = kind.handler(payload, context)
    asyncio.run(context.database.dispose())
    return returned


async def _await(kind: Kind, payload: BaseModel, context: Context) -> object:
    try:
        returned: object = await kind.handler(payload, context)  # type: ignore[misc]
    finally:
        # Connections belong to the event loop that ends here.
        await mail_pool.close_all()
        await context.database.dispose()
    return returned
