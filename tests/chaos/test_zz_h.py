import asyncio, pytest
from sqlalchemy import text
from ledger import transitions, ids
from tests.ledger.jobs import accept, claim, new_job
from tests.chaos.test_found_defects import _waits_for_a_lock
from tests.waiting import wait_for
@pytest.mark.parametrize("warm",[0,8])
@pytest.mark.parametrize("n",[1,2,3])
async def test_x(database,n,warm):
    parents=[new_job() for _ in range(n)]
    await accept(database,*parents,*(new_job(queue="template") for _ in range(500)))
    async with database.connect() as c:
        for i in range(warm):
            await transitions.accept(c,[new_job(depends_on=(parents[0].id,))]); await c.commit()
        claimed=await claim(database)
        async with database.connect() as finishing:
            await transitions.finish(finishing,[transitions.Finish(j.id,j.attempt,transitions.State.SUCCEEDED) for j in claimed])
            kids=[new_job(depends_on=(p.id,)) for p in parents]
            t=asyncio.create_task(transitions.accept(c,kids))
            await wait_for(lambda:_waits_for_a_lock(database),what="w")
            await finishing.commit()
        out=await t
        print(n,warm,[o.missing_parents for o in out])
        assert not any(o.missing_parents for o in out)
