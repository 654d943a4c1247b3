"""A state machine over the ledger's transitions: any interleaving, several connections at once.

Claims, finishes, stale finishes, reclaims, releases, cancels, retries and resolves in any order;
some steps hold their transaction open while others go on. After every step: legal paths, fences
that only grow, no attempt that two believe to have finished, and books that add up.

The same machine over transitions without their fence must find the fault.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from lab.chaos import chains
from lab.chaos.history import Event, Job
from ledger import counts, ids, transitions
from ledger.errors import WrongState
from ledger.models.jobs import State
from ledger.shapes import ClaimedJob, Finish
from ledger.statements import TRANSITIONS
from tests import services
from tests.ledger.jobs import SIGN_ON, new_job, wishes
from tests.ledger.world import MISCOUNTED_CHILDREN, MISCOUNTED_JOBS, Claim, World

WORKERS = 3
ENDS = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.UNKNOWN)
OUTCOMES = (*ENDS, State.SCHEDULED, State.READY)
FENCED = ("succeed", "finish", "defer", "release")


class Ledger(RuleBasedStateMachine):
    """Set `url` before it runs."""

    url = ""
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.url)
        self.jobs: list[UUID] = []
        self.owners = [ids.new() for _ in range(WORKERS)]
        self.held: tuple[AsyncConnection, list[Finish], list[bool]] | None = None
        self.world.do(self._clear())

    async def _clear(self) -> None:
        async with self.world.engine.begin() as connection:
            await connection.execute(
                text("TRUNCATE relais.jobs, relais.job_events, relais.job_parents CASCADE")
            )

    # what callers do

    @rule(count=st.integers(1, 3), has_parent=st.booleans(), calls_back=st.booleans())
    def accept(self, count: int, has_parent: bool, calls_back: bool) -> None:
        parents = tuple(self.jobs[-1:]) if has_parent and self.held is None else ()
        url = "https://n8n.example/x" if calls_back else None
        new = [new_job(depends_on=parents, callback_url=url) for _ in range(count)]
        accepted = self._write(lambda connection: transitions.accept(connection, new))
        self.jobs += [one.id for one in accepted if not one.missing_parents]

    @precondition(lambda self: self.jobs and self.held is None)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.jobs))
        self._operate(transitions.cancel, job_id=job_id)

    @precondition(lambda self: self.jobs and self.held is None)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self._operate(transitions.retry, job_ids=[data.draw(st.sampled_from(self.jobs))])

    @precondition(lambda self: self.jobs and self.held is None)
    @rule(data=st.data(), state=st.sampled_from([State.SUCCEEDED, State.FAILED]))
    def resolve(self, data: st.DataObject, state: State) -> None:
        job_id = data.draw(st.sampled_from(self.jobs))
        self._operate(transitions.resolve, job_id=job_id, as_state=state)

    # what workers do

    @rule(target=claims, worker=st.integers(0, WORKERS - 1), limit=st.integers(1, 3))
    def claim(self, worker: int, limit: int) -> Any:
        owner = self.owners[worker]

        async def work(connection: AsyncConnection) -> list[ClaimedJob]:
            await connection.execute(SIGN_ON, {"id": owner, "queue": "bulk"})
            asked = await wishes(connection, queue="bulk", limit=limit)
            return await transitions.claim(
                connection, queue="bulk", wishes=asked, owner=owner, worker=f"w{worker}@test:1",
                colour="blue", version="0", lease_s=60, limit=limit,
            )  # fmt: skip

        taken = self._write(work)
        # Kept for ever: what has been finished or taken back is a stale claim from then on.
        return multiple(*(Claim(job, owner) for job in taken))

    @rule(claim=claims, outcome=st.sampled_from(OUTCOMES))
    def finish(self, claim: Claim, outcome: State) -> None:
        item = self._item(claim, outcome)
        if self.held is not None and claim.job.id in {one.id for one in self.held[1]}:
            return  # it would wait for the open transaction, as `finish_over` shows
        finished = self._write(lambda connection: transitions.finish(connection, [item]))
        self._note([item], finished.written)

    @precondition(lambda self: self.held is None)
    @rule(claim=claims, outcome=st.sampled_from(OUTCOMES))
    def begin_finish(self, claim: Claim, outcome: State) -> None:
        """Write an outcome and keep the transaction open."""
        item = self._item(claim, outcome)

        async def begin() -> tuple[AsyncConnection, list[Finish], list[bool]]:
            connection = await self.world.engine.connect()
            try:
                finished = await transitions.finish(connection, [item])
            except BaseException:
                await connection.close()
                raise
            return connection, [item], finished.written

        self.held = self.world.do(begin())

    @precondition(lambda self: self.held is not None)
    @rule(commits=st.booleans())
    def end_finish(self, commits: bool) -> None:
        """Commit it, or lose the connection before."""
        assert self.held is not None
        connection, items, written = self.held
        self.held = None
        self.world.do(connection.commit() if commits else connection.rollback())
        self.world.do(connection.close())
        if commits:
            self._note(items, written)

    @precondition(lambda self: self.held is not None)
    @rule(claim=claims, outcome=st.sampled_from(OUTCOMES), commits=st.booleans())
    def finish_over(self, claim: Claim, outcome: State, commits: bool) -> None:
        """Finish while another transaction that may have the same rows is open, then end that."""
        item = self._item(claim, outcome)

        async def both() -> list[bool]:
            assert self.held is not None
            connection = self.held[0]
            other = asyncio.create_task(self._finish_one(item))
            await asyncio.sleep(0.002)  # long enough to arrive there, usually: either way is right
            await (connection.commit() if commits else connection.rollback())
            await connection.close()
            return await other

        assert self.held is not None
        _, items, written = self.held
        mine = self.world.do(both())
        self.held = None
        if commits:
            self._note(items, written)
        self._note([item], mine)

    @rule(worker=st.integers(0, WORKERS - 1))
    def reclaim(self, worker: int) -> None:
        """That worker is dead, as far as anybody can see; it may wake up and finish all the same."""
        dead, self.owners[worker] = self.owners[worker], ids.new()
        self._write(lambda connection: transitions.reclaim(connection, dead=[dead]))

    @rule(claim=claims)
    def report_death(self, claim: Claim) -> None:
        died = [(claim.job.id, claim.job.attempt)]
        if self.held is None:
            self._write(lambda connection: transitions.reclaim(connection, died=died))

    @rule(worker=st.integers(0, WORKERS - 1), known=st.lists(claims, max_size=2))
    def release_strays(self, worker: int, known: list[Claim]) -> None:
        held = [claim.job.fence for claim in known]
        owner = self.owners[worker]
        if self.held is None:
            self._write(lambda c: transitions.release_strays(c, owner=owner, held=held))

    @rule()
    def promote(self) -> None:
        self._write(lambda connection: transitions.promote(connection, queue="bulk", limit=10))

    @rule(held=st.lists(claims, max_size=3))
    def extend_leases(self, held: list[Claim]) -> None:
        fences = [claim.job.fence for claim in held]
        self._write(lambda c: transitions.extend_leases(c, held=fences, lease_s=90))

    @rule()
    def roll_up_counts(self) -> None:
        self._write(lambda connection: counts.roll_up(connection, limit=3))

    # what must hold

    @invariant()
    def nobody_finished_what_another_has_finished(self) -> None:
        twice = [fence for fence, states in self.world.believed.items() if len(states) > 1]
        assert not twice, f"two believe that they finished {twice}"
        written = self.world.do(self._written())
        for (job_id, attempt), (state,) in self.world.believed.items():
            is_there = (job_id, attempt, state) in written or (
                # What would have run again was cancelled instead: that had been promised.
                state in {State.SCHEDULED, State.READY}
                and (job_id, attempt, State.CANCELLED) in written
            )
            assert is_there, f"{job_id} {attempt} was never {state}"

    @invariant()
    def every_path_is_legal(self) -> None:
        for job in self.world.do(self._histories()):
            fault = chains.fault_in(job)
            assert fault is None, f"{job.id} {fault}"

    @invariant()
    def books_add_up(self) -> None:
        rows = self.world.do(self._balance())
        assert rows == [], f"callbacks differ from ends: {rows}"

    @invariant()
    def children_count_their_open_parents(self) -> None:
        assert self.world.do(self._rows(MISCOUNTED_CHILDREN)) == []

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.world.do(self._rows(MISCOUNTED_JOBS)) == []

    def teardown(self) -> None:
        if self.held is not None:
            self.world.do(self.held[0].close())
        self.world.close()

    def _item(self, claim: Claim, outcome: State) -> Finish:
        return Finish(claim.job.id, claim.job.attempt, outcome, reason="as drawn")

    def _note(self, items: list[Finish], written: list[bool]) -> None:
        for item, is_written in zip(items, written, strict=True):
            if is_written:
                self.world.believed.setdefault((item.id, item.attempt), []).append(item.state)

    def _operate(self, transition: Any, **arguments: Any) -> None:
        with suppress(WrongState):
            self._write(lambda c: transition(c, tenant="default", by="person", **arguments))

    def _write(self, work: Any) -> Any:
        async def write() -> Any:
            async with self.world.engine.begin() as connection:
                await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
                return await work(connection)

        return self.world.do(write())

    async def _finish_one(self, item: Finish) -> list[bool]:
        async with self.world.engine.begin() as connection:
            return list((await transitions.finish(connection, [item])).written)

    async def _histories(self) -> list[Job]:
        async with self.world.engine.connect() as connection:
            events: dict[UUID, list[Event]] = {}
            for row in await connection.execute(
                text(
                    "SELECT seq, job_id, from_state::text, to_state::text, attempt, worker, reason"
                    " FROM relais.job_events ORDER BY seq"
                )
            ):
                event = Event(
                    row.seq, row.from_state, row.to_state, row.attempt, row.worker, row.reason, 0.0
                )
                events.setdefault(row.job_id, []).append(event)
            found = await connection.execute(
                text("SELECT id, state::text, attempt, kind, reason FROM relais.jobs")
            )
            return [
                Job(
                    str(row.id), None, row.kind, row.state, row.attempt, row.reason, None, False,
                    0.0, None, None, tuple(events.get(row.id, ())),
                )
                for row in found
            ]  # fmt: skip

    async def _written(self) -> set[tuple[UUID, int, str]]:
        """The outcomes that the ledger holds as those of these attempts."""
        async with self.world.engine.connect() as connection:
            found = await connection.execute(
                text(
                    "SELECT job_id, attempt, to_state::text FROM relais.job_events"
                    " WHERE from_state = 'running'"
                    " AND (reason IN ('as drawn', 'cancelled by person') OR reason IS NULL)"
                )
            )
            return {(row.job_id, row.attempt, row.to_state) for row in found}

    async def _rows(self, statement: str) -> list[Any]:
        async with self.world.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async def _balance(self) -> list[Any]:
        """Jobs with a callback whose ends and callbacks differ in number."""
        async with self.world.engine.connect() as connection:
            found = await connection.execute(
                text("""
                    SELECT j.id, ends.n, calls.n FROM relais.jobs AS j
                    CROSS JOIN LATERAL (
                        SELECT count(*) AS n FROM relais.job_events AS e WHERE e.job_id = j.id
                        AND e.to_state IN ('succeeded', 'failed', 'cancelled', 'unknown')) AS ends
                    CROSS JOIN LATERAL (
                        SELECT count(*) AS n FROM relais.jobs AS c
                        WHERE c.accepted_by = 'job:' || j.id) AS calls
                    WHERE ends.n * (j.callback_url IS NOT NULL)::int <> calls.n
                """)
            )
            return [tuple(row) for row in found]


def _run(machine: type[Ledger], *, examples: int, steps: int) -> None:
    with services.fresh_database() as url:
        machine.url = url
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(
                    Phase.generate,
                ),  # the first that is found will do: nobody waits for the smallest
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.timeout(300)
def test_any_interleaving_keeps_the_promise() -> None:
    _run(type("Fenced", (Ledger,), {}), examples=40, steps=40)


@pytest.mark.timeout(300)
def test_the_machine_finds_a_ledger_without_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FENCED:
        statement = str(TRANSITIONS[name])
        unfenced = statement.replace(" AND j.attempt = d.attempt AND j.owner IS NOT NULL", "")
        assert unfenced != statement
        monkeypatch.setitem(TRANSITIONS, name, text(unfenced))
    with pytest.raises(Exception, match=r"two believe|went from|starts at|callbacks differ|check"):
        _run(type("Unfenced", (Ledger,), {}), examples=50, steps=30)


@pytest.mark.timeout(300)
def test_the_machine_finds_a_ledger_that_forgets_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mistake that is easily made: only the state is looked at."""
    for name in FENCED:
        statement = str(TRANSITIONS[name])
        monkeypatch.setitem(
            TRANSITIONS, name, text(statement.replace(" AND j.attempt = d.attempt", ""))
        )
    with pytest.raises(AssertionError, match=r"two believe|was never"):
        _run(type("Attemptless", (Ledger,), {}), examples=400, steps=40)
