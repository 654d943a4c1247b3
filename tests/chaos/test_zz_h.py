import asyncio, pytest
from sqlalchemy import text
from ledger import transitions, ids
from tests.ledger.jobs import accept, claim, new_job, row
from tests.chaos.test_found_defects import _waits_for_a_lock
from tests.waiting import wait_for
async def fill(database):
    for _ in range(5): await accept(database,*(new_job(queue="template") for _ in range(1000)))
    async with database.connect() as c:
        await c.execution_options(isolation_level="AUTOCOMMIT"); await c.execute(text("VACUUM ANALYZE relais.jobs"))
@pytest.mark.parametrize("n",[1,2,3,30])
@pytest.mark.parametrize("what",["adopt","finish","children"])
@pytest.mark.parametrize("warm",[0,12])
async def test_x(database,what,n,warm):
    await fill(database)
    async with database.connect() as c, database.connect() as holder:
        for _ in range(warm):
            ps=[new_job() for _ in range(n)]; await transitions.accept(c,ps)
            await transitions.accept(c,[new_job(queue="critical",depends_on=(p.id,)) for p in ps]); await c.commit()
            cl=await claim(database,limit=n)
            await transitions.finish(c,[transitions.Finish(j.id,j.attempt,transitions.State.SUCCEEDED) for j in cl]); await c.commit()
        ps=[new_job() for _ in range(n)]
        await transitions.accept(c,ps); await c.commit()
        kids=[new_job(queue="critical",depends_on=(p.id,)) for p in ps]
        if what!="adopt":
            await transitions.accept(c,kids); await c.commit()
        cl=await claim(database,limit=n)
        held=[p.id for p in (kids if what=="children" else ps)]
        await holder.execute(text("UPDATE relais.jobs SET has_children=true WHERE id=ANY(:i)"),{"i":held})
        if what=="adopt": t=asyncio.create_task(transitions.accept(c,kids))
        else: t=asyncio.create_task(transitions.finish(c,[transitions.Finish(j.id,j.attempt,transitions.State.SUCCEEDED) for j in cl]))
        await wait_for(lambda:_waits_for_a_lock(database),what="w")
        await holder.commit()
        out=await t; await c.commit()
        if what=="adopt": assert not any(o.missing_parents for o in out), sum(bool(o.missing_parents) for o in out)
        elif what=="finish": assert all(out.written), out.written
        else: 
            states=[(await row(database,k.id)).state for k in kids]
            assert set(states)=={"ready"}, states
