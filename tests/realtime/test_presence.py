"""Presence on a node: who is named, what is bounded, and who is told of whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from channels.ports import UnavailableError
from channels.presence import Asked, Count, Counted, Headcount
from realtime.connections import Card, Connections
from realtime.presence import SLICE, Attendance, TooManyWaitingError
from realtime.presence_settings import PresenceSettings
from realtime.websocket.session import Session
from tests.realtime.raw_socket import raw_socket
from tests.realtime.sse_world import served_sse
from tests.realtime.wire_world import Json, Talker, WireWorld, served, until

A = "zone:A"
QUICK_S = 0.02


async def entered(world: WireWorld, stack: AsyncExitStack, *channels: str) -> tuple[Talker, str]:
    """Connect and subscribe; return the client's id, too."""
    talker = await stack.enter_async_context(world.dial())
    client = (await talker.ask("connect"))["connect"]["client"]
    for channel in channels:
        await talker.subscribe(channel)
    return talker, client


async def present(talker: Talker) -> set[str]:
    """Ask who is there."""
    reply = await talker.ask("presence", channel=A)
    clients = reply["presence"]["presence"]
    assert all(info == {"client": client, "user": ""} for client, info in clients.items())
    return set(clients)


async def told(talker: Talker) -> tuple[str, str]:
    """Return the next push as what happened and to whom."""
    push = (await talker.line())["push"]
    assert push.pop("channel") == A
    ((what, body),) = push.items()
    assert body["info"]["user"] == ""
    return what, body["info"]["client"]


@pytest.mark.usefixtures("each_encoding")
async def test_presence_names_who_watches_and_no_others() -> None:
    """Who asks need not watch. Who left, or unsubscribed, is gone at once."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(served())
        asking, _ = await entered(world, stack)
        assert await present(asking) == set()
        one, first = await entered(world, stack, A)
        _, second = await entered(world, stack, A, "zone:B")
        await entered(world, stack, "zone:B")
        assert await present(asking) == {first, second}
        assert await present(one) == {first, second}
        await one.ask("unsubscribe", channel=A)
        assert await present(asking) == {second}


@pytest.mark.usefixtures("each_encoding")
async def test_stats_count_clients_and_each_unknown_user_for_itself() -> None:
    """As nobody asked for tokens, nobody is known."""
    async with served() as world, world.talker(A) as one, world.talker(A):
        reply = await one.ask("presence_stats", channel=A)
        assert reply["presence_stats"] == {"num_clients": 2, "num_users": 2}


@pytest.mark.usefixtures("each_encoding")
async def test_more_clients_than_may_be_named_are_counted() -> None:
    """Error 106 for the names, and the right numbers all the same."""
    async with served(presence_max_clients=1) as world, world.talker(A) as one:
        assert len(await present(one)) == 1
        async with world.talker(A):
            reply = await one.ask("presence", channel=A)
            assert reply["error"]["code"] == 106
            reply = await one.ask("presence_stats", channel=A)
            assert reply["presence_stats"]["num_clients"] == 2


async def test_event_streams_watch_as_well() -> None:
    """Each by an id of its own."""
    async with served_sse() as world, world.source("A") as source:
        await source.next("snapshot")
        found = await world.node.attendance.look(A)
        assert found.clients is not None
        ((client, user),) = found.clients.items()
        assert len(client) == 36
        assert user == ""


@pytest.mark.usefixtures("each_encoding")
async def test_who_asked_for_them_is_told_of_joins_and_leaves() -> None:
    """From the subscription on, until it ends; others are told nothing."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(served(presence_interval_s=QUICK_S))
        other, watching = await entered(world, stack, A)
        follower, itself = await entered(world, stack)
        await follower.subscribe(A, join_leave=True)
        assert await present(follower) == {watching, itself}
        async with AsyncExitStack() as inner:
            _, client = await entered(world, inner, A)
            assert await told(follower) == ("join", client)
        assert await told(follower) == ("leave", client)
        await other.ask("unsubscribe", channel=A)
        assert await told(follower) == ("leave", watching)
        await follower.ask("unsubscribe", channel=A)
        await follower.subscribe(A)
        await other.subscribe(A)
        # Nothing came in between for either.
        assert await present(other) == {watching, itself}
        await asyncio.sleep(3 * QUICK_S)
        assert await present(follower) == {watching, itself}


async def test_presence_and_what_is_told_after_it_fit() -> None:
    """Whatever comes and goes meanwhile: who applies joins and leaves to an answer is right."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(served(presence_interval_s=QUICK_S))
        follower, itself = await entered(world, stack)
        await follower.subscribe(A, join_leave=True)
        known: set[str] = set()
        talkers = [await entered(world, stack) for _ in range(5)]
        for _ in range(6):
            for talker, _ in talkers:
                await talker.ask("subscribe", channel=A)
            await follower.say({"id": 99, "presence": {"channel": A}})
            known = await applied(follower, known, lambda line: line.get("id") == 99)
            for talker, _ in talkers[1:]:
                await talker.ask("unsubscribe", channel=A)
        await talkers[0][0].ask("unsubscribe", channel=A)
        last = {client for _, client in talkers}
        while known != {itself}:
            known = await applied(follower, known, lambda _: True)
            assert known <= last | {itself}


async def applied(follower: Talker, known: set[str], ends: Callable[[Json], bool]) -> set[str]:
    """Apply lines to what is known, up to one."""
    while True:
        line = await follower.line()
        if "presence" in line:
            known = set(line["presence"]["presence"])
        else:
            ((what, body),) = ((k, v) for k, v in line["push"].items() if k != "channel")
            client = body["info"]["client"]
            known = known | {client} if what == "join" else known - {client}
        if ends(line):
            return known


async def test_who_does_not_read_is_told_in_the_end_what_is_left_of_it() -> None:
    """Nothing piles up meanwhile: who came and left again is never told."""
    async with (
        served(slow_buffer_max_bytes=50_000, presence_interval_s=QUICK_S) as world,
        raw_socket(world.port, receive_buffer_bytes=4_096) as raw,
    ):
        await raw.shake_hands()
        raw.write('{"id":1,"connect":{}}')
        await raw.read_text()
        raw.write(json.dumps({"id": 2, "subscribe": {"channel": A, "join_leave": True}}))
        await raw.read_text()
        (session,) = world.node.connections._live
        assert isinstance(session, Session)
        rounds = 0
        while not session.congested:
            rounds += 1
            world.commit(*((user, "BA"[rounds % 2]) for user in range(1, 400)))
            await asyncio.sleep(0)
        async with world.talker(A) as passing:
            await passing.ask("presence", channel=A)
        async with world.talker(A) as staying:
            (client,) = await present(staying) - {session.client_id}
            queued = session.queued_bytes
            await staying.ask("presence", channel=A)
            assert session.queued_bytes <= queued
            text = ""
            while '"join"' not in text:
                text = await raw.read_text()
            joins = [json.loads(line) for line in text.split("\n") if '"join"' in line]
            assert [each["push"]["join"]["info"]["client"] for each in joins] == [client]
            assert '"leave"' not in text


async def test_followed_channels_are_bounded() -> None:
    """One more is refused, and can be had without; one that nobody follows any more makes room."""
    async with (
        served(presence_max_followed_channels=1, presence_interval_s=QUICK_S) as world,
        world.talker() as one,
    ):
        await one.subscribe(A, join_leave=True)
        reply = await one.ask("subscribe", channel="zone:B", join_leave=True)
        assert reply["error"]["code"] == 106
        await one.subscribe("zone:B")
        await one.ask("unsubscribe", channel=A)
        async with asyncio.timeout(5):
            while "error" in await one.ask("subscribe", channel="zone:C", join_leave=True):
                pass


async def test_a_crowd_is_counted_in_pieces() -> None:
    """Others have the loop after each thousand; nobody is left out or counted twice."""
    crowd = 3 * SLICE + 1
    connections, watchers = Connections(crowd), [StandIn() for _ in range(crowd)]
    for number, watcher in enumerate(watchers):
        connection: Any = watcher
        connections.admit(connection, Card(str(number), "sse", subject=f"u{number % 7}"))
    feed: Any = NoFeed()
    feed.watchers_of = lambda _: watchers
    attendance = Attendance(feed, connections, PresenceSettings())
    turns = 0
    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(attendance.count({A: True}))
        while not counting.done():
            turns += 1
            await asyncio.sleep(0)
    found = (await counting)[A]
    assert turns >= 4
    assert (found.count, found.clients, len(found.users), found.anonymous) == (crowd, None, 7, 0)


# Other nodes, as the attendance sees them.


class Elsewhere:
    """Other nodes that answer when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[], Awaitable[list[Counted]]] = self._nothing

    async def _nothing(self) -> list[Counted]:
        return []

    async def run(self, count: Count) -> None:
        await asyncio.get_running_loop().create_future()

    async def ask(self, channels: Asked) -> list[Counted]:
        self.asked.append(channels)
        return await self.answer()


class NoFeed:
    """A node where nobody is counted."""

    def watchers_of(self, channel: str) -> list[Any]:
        return []

    def watches(self, subscriber: object, channel: str) -> bool:
        return True


class Running:
    """An attendance of a node that is asked, and the other nodes."""

    def __init__(self, **settings: Any) -> None:
        self.elsewhere = Elsewhere()
        feed: Any = NoFeed()
        chosen = PresenceSettings(**settings)
        self.attendance = Attendance(feed, Connections(10), chosen, self.elsewhere)

    async def __aenter__(self) -> Running:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self.attendance.run())
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._task.cancel()
        await self._tasks.__aexit__(*error)


async def test_who_asks_while_others_are_asked_shares_the_next_question() -> None:
    """An answer is never older than its question, and no node asks twice at a time."""
    release = asyncio.Event()

    async def later() -> list[Counted]:
        await release.wait()
        return [{A: Headcount.of_clients({"1": "ada"}, is_named=True)}]

    async with Running() as running, asyncio.TaskGroup() as tasks:
        running.elsewhere.answer = later
        first = tasks.create_task(running.attendance.look(A))
        await until(lambda: bool(running.elsewhere.asked))
        others = [
            tasks.create_task(running.attendance.look(channel, is_named=is_named))
            for channel, is_named in ((A, False), (A, True), ("zone:B", False))
        ]
        await asyncio.sleep(0)
        release.set()
        found = [await task for task in (first, *others)]
        assert running.elsewhere.asked == [{A: True}, {A: True, "zone:B": False}]
        assert [each.num_clients for each in found] == [1, 1, 1, 0]
        assert found[1] is found[2]


async def test_who_asked_is_answered_before_it_is_told_of_anything_later() -> None:
    """Also where the next answer comes in the same tick: what it is told must fit its answer."""
    happened: list[object] = []
    follower: Any = StandIn()

    async def look(attendance: Attendance) -> None:
        happened.append((await attendance.look(A)).num_clients)

    async with Running() as running, asyncio.TaskGroup() as tasks:

        async def grow() -> list[Counted]:
            asked = len(running.elsewhere.asked)
            if asked == 2:
                running.attendance._want(A)
            clients = {str(number): "ada" for number in range(asked)}
            return [{A: Headcount.of_clients(clients, is_named=True)}]

        running.elsewhere.answer = grow
        running.attendance.follow(
            follower, A, lambda _, difference: happened.append(dict(difference.joined))
        )
        await until(lambda: bool(running.elsewhere.asked))
        tasks.create_task(look(running.attendance))
        await until(lambda: len(running.elsewhere.asked) == 3)
        assert happened == [{"1": "ada"}, 2, {"2": "ada"}]


class StandIn:
    """A follower that reads all."""

    congested = False


async def test_when_a_node_cannot_be_asked_who_asks_is_told() -> None:
    """Each of them, and the next question is another one."""

    async def fail() -> list[Counted]:
        raise UnavailableError("bus", "1 nodes did not answer in time")

    async with Running() as running:
        running.elsewhere.answer = fail
        for _ in range(2):
            with pytest.raises(UnavailableError, match="1 nodes"):
                await running.attendance.look(A)


async def test_channels_that_wait_are_bounded() -> None:
    """One more is refused; the same ones are not more."""
    async with Running(presence_max_waiting_channels=1) as running, asyncio.TaskGroup() as tasks:
        release = asyncio.Event()

        async def later() -> list[Counted]:
            await release.wait()
            return []

        running.elsewhere.answer = later
        tasks.create_task(running.attendance.look("zone:B"))
        await until(lambda: bool(running.elsewhere.asked))
        tasks.create_task(running.attendance.look(A))
        tasks.create_task(running.attendance.look(A))
        await asyncio.sleep(0)
        with pytest.raises(TooManyWaitingError):
            await running.attendance.look("zone:C")
        release.set()


def test_a_connection_is_known_by_its_card() -> None:
    """Until it has ended."""
    connections, connection = Connections(1), Elsewhere()
    live: Any = connection
    connections.admit(live, Card("1", "sse", subject="ada"))
    card = connections.card_of(connection)
    assert card is not None
    assert card.subject == "ada"
    connections.remove(live)
    assert connections.card_of(connection) is None
