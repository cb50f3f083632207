"""Revocations: they reach every node, with the bus and without, and outlive restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from channels.events import Revoked
from db.epochs import renew_epochs
from realtime.auth.principal import Principal
from realtime.auth.revocations import Revocations
from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter
from tests.realtime.wire_world import until
from tests.servers import RedisServer

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

BOUND_S = 2.0
"""The promise, after the answer to the revocation."""
PATIENCE_S = 10.0
"""How long tests wait on a busy machine before they say that it was never heard of."""

Guarded = tuple[httpx.AsyncClient, "LiveNode"]


async def revoke(client: httpx.AsyncClient, minter: Minter, **what: Any) -> None:
    admin = minter.header(sub="root", scope="admin")
    answer = await client.post("/admin/revoke", json=what, headers=admin)
    assert answer.status_code == 204, answer.text
    assert answer.content == b""


async def status(client: httpx.AsyncClient, headers: dict[str, str], path: str = "/zones") -> int:
    return (await client.get(path, headers=headers)).status_code


async def heard(revocations: Revocations, version: int) -> float:
    """Wait until a node has heard of more than it had; return how long that took."""
    began_s = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while revocations.version == version:  # noqa: ASYNC110 - it has no event for this.
            await asyncio.sleep(0.01)
    return time.monotonic() - began_s


def old(minter: Minter, **changed: Any) -> dict[str, str]:
    """A token issued a minute ago."""
    grants = {"zones": ["*"], "scope": "read", "iat": int(time.time()) - 60}
    return minter.header(**{**grants, **changed})


async def test_a_revoked_subject_is_out_and_a_later_token_is_good(
    guarded: Guarded, minter: Minter
) -> None:
    """The node that was told knows at once."""
    client, _ = guarded
    ada, eve = old(minter), old(minter, sub="eve")
    assert await status(client, ada) == 200
    await revoke(client, minter, sub="ada")
    answer = await client.get("/zones", headers=ada)
    assert answer.status_code == 401
    assert answer.json()["reason"] == "revoked"
    assert await status(client, eve) == 200
    later = minter.header(zones=["*"], scope="read", iat=int(time.time()) + 2)
    assert await status(client, later) == 200


async def test_a_token_that_does_not_say_when_it_was_issued_counts_as_old(
    guarded: Guarded, minter: Minter
) -> None:
    """Or leaving `iat` out would be a way around."""
    client, _ = guarded
    ada = old(minter, iat=None)
    await revoke(client, minter, sub="ada")
    assert await status(client, ada) == 401


async def test_one_token_is_taken_back_by_its_id(guarded: Guarded, minter: Minter) -> None:
    """Others of the same subject stay good."""
    client, _ = guarded
    stolen, other = old(minter, jti="stolen"), old(minter, jti="other")
    await revoke(client, minter, jti="stolen")
    assert await status(client, stolen) == 401
    assert await status(client, other) == 200


async def test_zones_are_taken_and_the_rest_stays(guarded: Guarded, minter: Minter) -> None:
    """Several of them add up; what needs everything is over with the first."""
    client, _ = guarded
    root = minter.header(sub="root", zones=["*"], scope="write")
    for zone_id in ("F1-Z1", "F1-Z2", "F2-Z1"):
        made = await client.post("/zones", json={"zone_id": zone_id, "name": "x"}, headers=root)
        assert made.status_code == 201
    ada = old(minter)
    assert await status(client, ada, "/users-dict") == 200
    await revoke(client, minter, sub="ada", zones=["F1-Z1"])
    await revoke(client, minter, sub="ada", zones=["F2-*"])
    assert await status(client, ada, "/zones/F1-Z1") == 403
    assert await status(client, ada, "/zones/F2-Z1") == 403
    assert await status(client, ada, "/zones/F1-Z2") == 200
    assert await status(client, ada, "/users-dict") == 403
    listed = (await client.get("/zones", headers=ada)).json()["zones"]
    assert [zone["zone_id"] for zone in listed] == ["F1-Z2"]


async def test_a_watch_is_told_what_is_left(guarded: Guarded, minter: Minter) -> None:
    """Transports hear of it at once, of their own principal only, and never after the end."""
    client, live = guarded
    gate = live.node.gate
    told: list[Principal | None] = []
    token = minter.token(zones=["*"], scope="read", iat=int(time.time()) - 60, jti="t")
    watch = gate.revocations.watch(gate.authenticate_now(token), told.append)
    await revoke(client, minter, sub="eve")
    await revoke(client, minter, sub="ada", zones=["F1-*"])
    assert [left.zones.has("F1-Z1") for left in told if left is not None] == [False]
    assert watch.principal.zones.has("F2-Z1")
    await revoke(client, minter, jti="t")
    assert told[1:] == [None]
    await revoke(client, minter, sub="ada")
    assert len(told) == 2
    watch.close()


@pytest.mark.parametrize("ends", ["with a change", "with a problem"])
async def test_a_long_poll_shows_nothing_that_was_taken_meanwhile(
    guarded: Guarded, minter: Minter, ends: str
) -> None:
    """Who waits for changes is judged again before they, or the new position, are shown."""
    client, live = guarded
    root = minter.header(sub="root", zones=["*"], scope="write")
    await client.post("/zones", json={"zone_id": "A", "name": "x"}, headers=root)
    async with asyncio.TaskGroup() as tasks:
        url = "/zones/A/changes?wait_s=20"
        polling = tasks.create_task(client.get(url, headers=old(minter, zones=["A"])))
        async with asyncio.timeout(PATIENCE_S):
            while not len(live.node.connections):  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.01)
        await revoke(client, minter, sub="ada", zones=["A"])
        if ends == "with a change":
            await client.patch("/zones/A", json={"name": "secret"}, headers=root)
        else:
            await renew_epochs(live.node.database)
    assert polling.result().status_code == 403
    assert "secret" not in polling.result().text
    assert "epoch" not in polling.result().text


@asynccontextmanager
async def two_nodes(start: StartGuarded, url: str, **given: object) -> AsyncIterator[list[Guarded]]:
    async with start(url, **given) as one, start(url, **given) as two:
        yield [one, two]


async def test_the_bus_brings_it_to_other_nodes(
    start_guarded: StartGuarded, postgres_url: str, redis_url: str, minter: Minter
) -> None:
    """On the node that wasn't asked it holds within the bound, too."""
    given = {"redis_url": redis_url, "redis_prefix": "revocations"}
    async with two_nodes(start_guarded, postgres_url, **given) as [one, two]:
        ada = old(minter)
        assert await status(two[0], ada) == 200
        version = two[1].node.gate.revocations.version
        await revoke(one[0], minter, sub="ada")
        assert await heard(two[1].node.gate.revocations, version) < BOUND_S
        assert await status(two[0], ada) == 401


async def test_head_checks_bring_it_while_the_bus_is_down(
    start_guarded: StartGuarded, postgres_url: str, own_redis: RedisServer, minter: Minter
) -> None:
    """Without Redis it takes longer, but not longer than promised."""
    async with two_nodes(start_guarded, postgres_url, redis_url=own_redis.url) as [one, two]:
        await own_redis.stop()
        ada = old(minter)
        version = two[1].node.gate.revocations.version
        await revoke(one[0], minter, sub="ada")
        assert await heard(two[1].node.gate.revocations, version) < BOUND_S
        assert await status(two[0], ada) == 401


async def test_it_outlives_the_node(
    start_guarded: StartGuarded, database_url: str, minter: Minter
) -> None:
    """A node that starts knows before it lets anybody in."""
    ada = old(minter)
    async with start_guarded(database_url) as (client, _):
        await revoke(client, minter, sub="ada")
        await revoke(client, minter, jti="t")
        await revoke(client, minter, sub="eve", zones=["A", "B-*"])
    async with start_guarded(database_url) as (client, _):
        assert await status(client, ada) == 401
        assert await status(client, old(minter, sub="x", jti="t")) == 401
        assert await status(client, old(minter, sub="eve"), "/zones/B-1") == 403


async def test_a_revocation_ends_when_no_token_can_be_alive(
    start_guarded: StartGuarded, database_url: str, minter: Minter
) -> None:
    """Its row goes with the next one, and a node that starts doesn't read it."""
    given = {"token_max_life_s": 1, "jwt_leeway_s": 0.5}
    async with start_guarded(database_url, **given) as (client, live):
        now_s = int(time.time())
        admin = minter.header(sub="root", scope="admin", iat=now_s, exp=now_s + 1)
        answer = await client.post("/admin/revoke", json={"sub": "ada"}, headers=admin)
        assert answer.status_code == 204
        rows = live.node.gate.revocations._rows
        assert len(await rows.read_all()) == 1
        async with asyncio.timeout(PATIENCE_S):
            while await rows.read_all():  # noqa: ASYNC110 - time is what is waited for.
                await asyncio.sleep(0.1)


async def test_there_may_be_so_many_and_no_more(
    start_guarded: StartGuarded, database_url: str, minter: Minter
) -> None:
    """The one too many is refused and told; the same again is no other."""
    async with start_guarded(database_url, revocations_max=2) as (client, _):
        admin = minter.header(sub="root", scope="admin")
        answers = [
            (await client.post("/admin/revoke", json={"sub": sub}, headers=admin)).status_code
            for sub in ("a", "a", "b", "b", "c")
        ]
        assert answers == [204, 204, 204, 204, 503]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sub": "a", "jti": "b"},
        {"jti": "b", "zones": ["A"]},
        {"sub": ""},
        {"sub": "a", "zones": []},
        {"sub": "a", "zones": ["A B"]},
        {"sub": "a", "zones": "A"},
        {"sub": 7},
        {"sub": "x" * 256},
    ],
)
async def test_what_is_no_revocation_is_refused(
    guarded: Guarded, minter: Minter, body: dict[str, Any]
) -> None:
    """It says what is wrong, and takes nothing back."""
    client, _ = guarded
    admin = minter.header(sub="a", scope="admin")
    answer = await client.post("/admin/revoke", json=body, headers=admin)
    assert answer.status_code == 422
    assert await status(client, minter.header(sub="a", scope="read")) == 200


async def test_new_epochs_make_a_node_read_them_anew(guarded: Guarded, minter: Minter) -> None:
    """After `zonecast resync`, or a database restored, what is in the table counts."""
    client, live = guarded
    await revoke(client, minter, sub="ada")
    version = live.node.gate.revocations.version
    await renew_epochs(live.node.database)
    await heard(live.node.gate.revocations, version)
    assert await status(client, old(minter)) == 401
    await revoke(client, minter, sub="eve")
    assert await status(client, old(minter, sub="eve")) == 401


async def test_one_that_is_made_while_they_are_read_anew_is_kept(
    guarded: Guarded, minter: Minter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows read may be from before it, and its channel may bring it later."""
    client, live = guarded
    revocations = live.node.gate.revocations
    asked, answer = asyncio.Event(), asyncio.Event()

    async def read_all() -> list[Revoked]:
        asked.set()
        await answer.wait()
        return []

    monkeypatch.setattr(revocations._rows, "read_all", read_all)
    revocations._lost.set()
    await asked.wait()
    now_ms = int(time.time() * 1000)
    revocations.take(Revoked("ada", None, None, now_ms, now_ms + 60_000))
    answer.set()
    await until(lambda: revocations._meanwhile is None)
    assert await status(client, old(minter)) == 401
