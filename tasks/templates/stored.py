"""Stored templates as a worker uses them: looked up once for many mails, uses counted in batches.

A version never changes and is kept for as long as there is room. Which version a name means is
looked up again every LATEST_S, default values every DEFAULTS_S: so long may a worker go on with
what was changed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from ledger import database as ledger_database
from ledger import defaults, outage, templates
from ledger.errors import LedgerUnavailable, NotFound
from ledger.group_commit import GroupCommit
from runtime import logs
from tasks.errors import PayloadError
from tasks.templates.cache import Cache
from tasks.templates.variables import names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.defaults import Default
    from ledger.templates import Note, Version

Result = TypeVar("Result")

LATEST_S = 2.0
DEFAULTS_S = 30.0
VERSIONS_S = 3_600.0
VERSIONS_MAX_CHARS = 32 * 1024 * 1024
ENTRIES_MAX = 2_000
COUNT_EVERY_S = 5.0
CLOSE_S = 1.0
COUNTED_MAX = 10_000  # more of them are not counted while Postgres takes no writes

log = logs.logger("templates")

_all_stored: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[AsyncEngine, StoredTemplates]] = (
    WeakKeyDictionary()
)


def of(database: AsyncEngine) -> StoredTemplates:
    """The templates on `database` in the running event loop."""
    stored = _all_stored.setdefault(asyncio.get_running_loop(), {})
    if database not in stored:
        stored[database] = StoredTemplates(database)
    return stored[database]


async def leave(database: AsyncEngine) -> None:
    """This event loop is about to end: write what was counted, where Postgres takes it soon."""
    stored = _all_stored.get(asyncio.get_running_loop(), {}).pop(database, None)
    if stored is not None:
        await stored.close()


class StoredTemplates:
    """Lookups, notes and counts; every method raises LedgerUnavailable while Postgres is away."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database  # each statement commits itself, and may be repeated
        self._latest: Cache[tuple[str, str], int] = Cache(ttl_s=LATEST_S, weight_max=ENTRIES_MAX)
        self._versions: Cache[tuple[str, str, int], Version] = Cache(
            ttl_s=VERSIONS_S, weight_max=VERSIONS_MAX_CHARS, weigh=_chars
        )
        self._defaults: Cache[tuple[str, str, int], list[Default]] = Cache(
            ttl_s=DEFAULTS_S, weight_max=ENTRIES_MAX
        )
        self._notes: GroupCommit[tuple[UUID, Note], Note | None] = GroupCommit(self._write_notes)
        self._uses: Counter[int] = Counter()
        self._counting: asyncio.Task[None] | None = None
        self._marked: set[tuple[str, str, int]] = set()

    async def find(self, tenant: str, reference: str) -> Version:
        """The version that `name` or `name@3` means; raises PayloadError where there is none."""
        name, _, number = reference.partition("@")
        try:
            if number:
                version = int(number)
            else:
                version = await self._latest.get(
                    (tenant, name),
                    lambda: self._ask(lambda c: templates.latest(c, tenant=tenant, name=name)),
                )
            return await self._versions.get(
                (tenant, name, version),
                lambda: self._ask(
                    lambda c: templates.find(c, tenant=tenant, name=name, version=version)
                ),
            )
        except NotFound as error:
            raise PayloadError(error.sentence, remedy=error.remedy) from error

    async def defaults(self, version: Version) -> list[Default]:
        """What is set for the version's variables beside it, the nearest first."""
        variables = names(version.variables, version.mentions)
        if not variables:
            return []
        return await self._defaults.get(
            (version.tenant, version.name, version.version),
            lambda: self._ask(
                lambda c: defaults.look_up(
                    c, tenant=version.tenant, template=version.name, variables=variables
                )
            ),
        )

    async def noted(self, job_id: UUID) -> Note | None:
        """What an earlier attempt of the job has noted."""
        return await self._ask(lambda c: templates.noted(c, job_id=job_id))

    async def note(self, job_id: UUID, note: Note) -> Note | None:
        """Note what the job's mail is made from; what stands now; None: the job is gone."""
        with _told_as_outage():
            return await self._notes.submit((job_id, note))

    async def mark_used(self, version: Version) -> None:
        """Note the first use of a version."""
        key = (version.tenant, version.name, version.version)
        if version.used_at is not None or key in self._marked:
            return
        await self._ask(
            lambda c: templates.mark_used(
                c, tenant=version.tenant, name=version.name, version=version.version
            )
        )
        if len(self._marked) < COUNTED_MAX:
            self._marked.add(key)

    def count(self, used: Iterable[Default]) -> None:
        """Count a use of each; written with others, a few seconds later."""
        for default in used:
            if default.id in self._uses or len(self._uses) < COUNTED_MAX:
                self._uses[default.id] += 1
        if self._uses and (self._counting is None or self._counting.done()):
            self._counting = asyncio.create_task(self._write_counts())

    async def flush(self) -> None:
        """Wait until what was counted so far is written, or has failed."""
        if self._counting is not None:
            await asyncio.wait([self._counting])

    async def close(self) -> None:
        """Write what was counted so far, within CLOSE_S."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])
        if self._uses:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._write_count()

    async def _write_counts(self) -> None:
        while self._uses:
            await asyncio.sleep(COUNT_EVERY_S)
            await self._write_count()

    async def _write_count(self) -> None:
        uses, self._uses = self._uses, Counter()
        try:
            await self._ask(lambda connection: defaults.count_uses(connection, uses))
        except LedgerUnavailable as error:
            self._uses.update(uses)  # with the next ones
            log.warning("defaults.not_counted", error=error.sentence)

    async def _write_notes(self, notes: Sequence[tuple[UUID, Note]]) -> list[Note | None]:
        async with ledger_database.single(self._database) as connection:
            return await templates.note(connection, notes)

    async def _ask(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        with _told_as_outage():
            async with ledger_database.single(self._database) as connection:
                return await work(connection)


@contextmanager
def _told_as_outage() -> Iterator[None]:
    """What may succeed later becomes LedgerUnavailable."""
    try:
        yield
    except Exception as error:
        if not outage.is_passing(error):
            raise
        sentence = "The ledger does not answer a question about a template."
        raise LedgerUnavailable(sentence) from error


def _chars(version: Version) -> int:
    return sum(len(source) for source in version.parts.values()) + len(version.mjml or "")
