import asyncio, collections, time
from sqlalchemy import text
import tests.db.test_concurrent_capture as t
from tests.db.conftest import *
from db.errors import ConflictError
import db.engine as e
async def test_stat(postgres_url):
    hist=collections.Counter(); kinds=collections.Counter()
    d=Database(DatabaseConfig(postgres_url, max_tries=40))
    orig=Database._run_once
    async def once(self, work):
        try: return await orig(self, work)
        except ConflictError as err:
            hist[err.reason]+=1; n=getattr(work,'n',0)+1
            kinds[(work.__qualname__.split('.')[1], n)]+=1
            try: work.n=n
            except Exception: pass
            raise
    Database._run_once=once
    try:
        await t.seed(d)
        out=collections.Counter()
        t0=time.time()
        async with asyncio.TaskGroup() as g:
            for w in range(20): g.create_task(t.Writer(d,2000+w,out).run())
        print(time.time()-t0, out, hist)
        for k,v in sorted(kinds.items()): print(k,v)
    finally: Database._run_once=orig
    await d.close()
