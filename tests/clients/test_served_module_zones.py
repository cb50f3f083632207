"""The module that nodes serve, `zonecast.js`, in Node: zones that come, go, and are not there."""

from __future__ import annotations

import asyncio

from tests.clients.screens import POLL_S, JavaScriptScreen, Picture
from tests.clients.served_module import Watch, make_zone, moved, named
from tests.clients.tcp_proxy import tcp_proxy
from tests.clients.test_recovery import Writer, writer_at
from tests.nodes import NodeProcess


async def until_zones(screen: JavaScriptScreen, zones: set[str]) -> dict[str, Picture]:
    """Wait, bounded by the test, until a screen has the states of these zones, and no others."""
    while True:
        pictures = await screen.pictures()
        if set(pictures) == zones and all(picture.rev >= 0 for picture in pictures.values()):
            return pictures
        await asyncio.sleep(POLL_S)


async def test_all_zones_are_watched_also_those_made_later(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """And no more once they are deleted; also what happened while nobody was connected."""
    async with writer_at(embedded_node[0]) as client, tcp_proxy(embedded_node[0].port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        async with watch(proxy.port, "*", transport=transport) as screen:
            assert set(await screen.pictures()) == {"A", "B"}
            start = len(screen.events)
            await make_zone(client, "C")
            await writer.move(1, "C")
            await screen.until(lambda events: any(moved(1, "C")(e) for e in events), start)
            assert (await client.delete("/zones/C?move_to=B")).status_code == 204
            await screen.until(lambda events: any(moved(1, "B")(e) for e in events), start)
            await until_zones(screen, {"A", "B"})
            proxy.is_open = False
            proxy.cut()
            start = len(screen.events)
            await screen.until(named("status", state="connecting"), start)
            await make_zone(client, "D")
            assert (await client.delete("/zones/B?move_to=D")).status_code == 204
            proxy.is_open = True
            await screen.until(named("status", state="live"), start)
            pictures = await until_zones(screen, {"A", "D"})
            assert set(pictures["D"].users) == {1}


async def test_zones_are_added_and_removed_while_it_runs(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """A zone that isn't watched any more shows nobody."""
    async with writer_at(embedded_node[0]) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(embedded_node[0].port, ["B"], transport=transport) as screen:
            start = len(screen.events)
            screen.say({"do": "add", "zone": "A"})
            await screen.until(lambda events: any(moved(5, "A")(e) for e in events), start)
            screen.say({"do": "remove", "zone": "A"})
            assert set(await screen.pictures()) == {"B"}
            await writer.move(1, "B")
            await screen.until(lambda events: any(moved(1, "B")(e) for e in events), start)


async def test_a_zone_that_is_made_later_appears(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """It is missing first, which is told; the others are live meanwhile."""
    async with writer_at(embedded_node[0]) as client:
        await make_zone(client, "A")
        async with watch(embedded_node[0].port, ["A", "Z"]) as screen:
            (error,) = named("error")(screen.events)
            assert (error["zone"], error["code"]) == ("Z", 102)
            assert (await screen.report())["status"]["state"] == "live"
            await make_zone(client, "Z")
            await screen.until(lambda events: any(["Z", []] in e.get("zones", []) for e in events))


async def test_on_an_event_stream_a_missing_zone_does_not_keep_the_others(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """The stream of both is refused; the one that is there is watched."""
    async with writer_at(embedded_node[0]) as client:
        await make_zone(client, "A")
        async with watch(embedded_node[0].port, ["A", "Z"], transport="sse") as screen:
            (error,) = named("error")(screen.events)
            assert (error["zone"], error["code"]) == ("Z", 102)
            assert (await screen.pictures())["A"].rev >= 0


async def test_users_in_no_zone_are_one_more_zone(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """Who leaves for it is shown there, and its digest is the service's."""
    async with writer_at(embedded_node[0]) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(embedded_node[0].port, ["A", None]) as screen:
            rows = [{"global_id": 1, "zone_id": None}]
            answer = await client.post("/transfers", json={"transfers": rows})
            assert answer.status_code == 200
            events = await screen.until(
                lambda events: any(
                    move["id"] == 1 and move["from"] == "A" and move["to"] is None
                    for event in named("change")(events)
                    for move in event["users"]
                    if "from" in move and "to" in move
                )
            )
            assert events
            digest = (await client.get("/zones/A/digest")).json()["digest"]
            assert (await screen.report())["digests"]["A"] == digest
