"""How many statements a request takes does not depend on how many rows it touches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import event

from tests.realtime.api.conftest import Api

if TYPE_CHECKING:
    from db.engine import Database
    from tests.realtime.api.conftest import StartApi


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """Collect the statements of sessions, without what pools and head checks ask."""
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "users" not in statement and "zones" not in statement:
            return
        # SQLAlchemy can't order what SQLite returns of one INSERT of many rows, and inserts
        # them one by one; there is no round trip to save.
        if not (database.dialect == "sqlite" and statement.startswith("INSERT INTO users")):
            seen.append(statement)

    engines = {database.engine.sync_engine, database.reader.sync_engine}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


Request = Callable[[Api, str, range], Awaitable[httpx.Response]]


async def _list(api: Api, _zone_id: str, _global_ids: range) -> httpx.Response:
    return await api.get("/users?limit=1000")


async def _zone(api: Api, zone_id: str, _global_ids: range) -> httpx.Response:
    return await api.get(f"/zones/{zone_id}?include=users")


async def _transfer(api: Api, _zone_id: str, global_ids: range) -> httpx.Response:
    moves = [{"global_id": n, "zone_id": "B"} for n in global_ids]
    return await api.post("/transfers", json={"transfers": moves})


async def _bulk(api: Api, zone_id: str, global_ids: range) -> httpx.Response:
    users = [{"global_id": 5_000 + n, "name": "u", "zone_id": zone_id} for n in global_ids]
    return await api.post("/users/bulk", json={"users": users})


async def _delete(api: Api, zone_id: str, _global_ids: range) -> httpx.Response:
    return await api.delete(f"/zones/{zone_id}?move_to=B")


@pytest.mark.parametrize("request_of", [_list, _zone, _transfer, _bulk, _delete])
async def test_statements_do_not_grow_with_the_rows(
    start_api: StartApi, request_of: Request
) -> None:
    """Two rows or three hundred, the number of statements is the same, and small."""
    counts: list[int] = []
    async with start_api() as (api, live):
        await api.make_zones("B")
        for zone_id, global_ids in (("A2", range(1, 3)), ("A300", range(101, 401))):
            await api.make_zones(zone_id)
            users = [{"global_id": n, "name": "u", "zone_id": zone_id} for n in global_ids]
            assert (await api.post("/users/bulk", json={"users": users})).status_code == 201
            with statements_of(live.node.database) as seen:
                response = await request_of(api, zone_id, global_ids)
            assert response.is_success, response.text
            counts.append(len(seen))
    assert counts[0] == counts[1]
    assert 1 <= counts[0] <= 12
