import asyncio, pytest
from sqlalchemy import text
from ledger import transitions, ids
from tests.ledger.jobs import accept, claim, new_job, row
@pytest.mark.timeout(200)
@pytest.mark.parametrize("rows",[0,5000])
@pytest.mark.parametrize("together",[1,3])
async def test_x(database,rows,together):
    missing=[];n=0
    stop=False
    if rows:
        for _ in range(5): await accept(database,*(new_job(queue="template") for _ in range(rows//5)))
        async with database.connect() as c:
            await c.execution_options(isolation_level="AUTOCOMMIT"); await c.execute(text("VACUUM ANALYZE relais.jobs"))
    async def worker():
        while not stop:
            c=await claim(database,limit=5)
            if c:
                async with database.begin() as conn:
                    await transitions.finish(conn,[transitions.Finish(j.id,j.attempt,transitions.State.SUCCEEDED) for j in c])
            await asyncio.sleep(0)
    w=[asyncio.create_task(worker()) for _ in range(2)]
    async def client():
        nonlocal n
        async with database.connect() as conn:
          for _ in range(150):
            ps=[new_job() for _ in range(together)]; await transitions.accept(conn,ps); await conn.commit()
            for _ in range(2):
                qs=[new_job(depends_on=(p.id,)) for p in ps]
                out=await transitions.accept(conn,qs); await conn.commit(); n+=1
                bad=[a for a in out if a.missing_parents]
                if bad: missing.append((together,len(bad),(await row(database,bad[0].missing_parents[0])).state)); break
                ps=qs
    await asyncio.gather(*(client() for _ in range(4)))
    stop=True; await asyncio.gather(*w)
    print("MISSING",len(missing),"of",n,missing[:3])
    assert not missing
