"""The adversary: two nodes over one truth, where bus and database do what may happen to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from channels.changes import Change, Transaction
from channels.feed import Feed, FeedConfig
from channels.pace import PaceConfig
from channels.ports import BusState, UnavailableError
from channels.publisher import Publisher
from channels.repairs import FollowerConfig
from tests.channels.record import RecordedTruth
from tests.channels.truth import Truth
from tests.channels.viewers import Picture, Viewer
from tests.channels.world import NullObserver, PlainCodec, WildBus

CONFIG = FeedConfig(
    following=FollowerConfig(resume_max_changes=4, linger_s=1, repair_max_concurrent=2),
    slow_drain_timeout_s=5,
    min_position_wait_s=0.5,
    # One write costs a window, and each a piece: anything may come in between.
    pace=PaceConfig(
        window_s=0.02,
        window_per_write_s=0.005,
        storm_window_s=0.1,
        storm_window_per_write_s=0.02,
        piece_max_writes=1,
    ),
)
ZONES = ("A", "B", "C")


class BrokenPromiseError(AssertionError):
    """What was promised did not hold."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a message on its way to one node.

    Attributes:
        delays_ms: When it arrives, each time that it does; never: empty; 0: at once.
        is_oversize: Whether only its position arrives.
    """

    delays_ms: tuple[int, ...]
    is_oversize: bool = False


class RoughBus(WildBus):
    """One node's bus; what it publishes is routed by the arena."""

    def __init__(self, route: Callable[[RoughBus, Transaction], None]) -> None:
        super().__init__()
        self._route = route

    async def subscribe(self, *channels: str) -> bool:
        self.channels.update(channels)
        await asyncio.sleep(0.25 if self.state is BusState.DOWN else 0.002)
        return self.state is BusState.LIVE

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        if self.state is BusState.DOWN:
            raise UnavailableError("bus", "it is down")
        await asyncio.sleep(0)
        for transaction in transactions:
            self._route(self, transaction)

    def set_down(self, *, down: bool) -> None:
        """Hear nothing, or hear again, which is told as a gap."""
        if not down and self.state is BusState.DOWN and self.listener is not None:
            self.listener.on_gap()
        self.state = BusState.DOWN if down else BusState.LIVE


class StrictObserver(NullObserver):
    """Notes failures that are not the world's."""

    def __init__(self, truth: RecordedTruth) -> None:
        super().__init__()
        self._truth = truth

    def failed(self, what: str, error: Exception) -> None:
        self._truth.check(isinstance(error, UnavailableError), "no failures of ours", what, error)


class ArenaNode:
    """A node: feed, bus and publisher."""

    def __init__(
        self,
        truth: RecordedTruth,
        route: Callable[[RoughBus, Transaction], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.bus = RoughBus(route)
        self.observer = StrictObserver(truth)
        self.feed = Feed(truth, self.bus, self.observer, CONFIG, tasks)
        self.publisher = Publisher(
            self.bus,
            self.observer,
            offer=self.feed.follower.offer,
            outbox_max_transactions=20,
            batch_max_transactions=2,
        )
        for work in (self.bus.run(self.feed.follower), self.feed.run(), self.publisher.run()):
            tasks.create_task(work)


class Arena:
    """The truth, two nodes, three viewers, and the ways between them."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.truth = RecordedTruth(ZONES)
        self.truth.page_max_changes = 3
        self.truth.answer_max_states = 2
        self.nodes = [ArenaNode(self.truth, self._route, tasks) for _ in range(2)]
        codec = PlainCodec()
        self.viewers = [
            Viewer(f"viewer {n}", self.truth, codec, is_joining=n != 1, is_quick=n != 0)
            for n in range(3)
        ]
        self.is_silent = False
        self._wave = 0
        self._fates: dict[str, Iterator[Fate]] = {}
        asyncio.get_running_loop().set_exception_handler(self._failed)

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        details = context["message"], repr(context.get("exception"))
        self.truth.check(None, "no failures of ours", *details)

    def verify(self) -> None:
        """Raise when a promise was broken.

        Raises:
            BrokenPromiseError: with all that is known of it.
        """
        for node in self.nodes:
            for followed in list(node.feed.follower._followed.values()):
                self.truth.check(followed.references >= 0, "references balance", followed)
        if self.truth.broken:
            raise BrokenPromiseError("\n".join(self.truth.broken))

    # The way of a change

    def committed(self, transaction: Transaction, writer: int, fates: Sequence[Fate]) -> None:
        """Let a node publish what it committed; a writer that isn't ours does it at once."""
        self.truth.note(transaction)
        self._fates[transaction.tx] = cycle(fates)
        if writer < len(self.nodes):
            self.nodes[writer].publisher.accept(transaction)
        else:
            self._route(None, transaction)

    def _route(self, origin: RoughBus | None, transaction: Transaction) -> None:
        for node in self.nodes:
            if node.bus is not origin:
                for change in transaction.changes:
                    self._send(node.bus, change, next(self._fates[transaction.tx]))

    def _send(self, bus: RoughBus, change: Change, fate: Fate) -> None:
        wave = self._wave

        def bring() -> None:
            if wave == self._wave and not self.is_silent and bus.state is BusState.LIVE:
                bus.bring(change, oversize=fate.is_oversize)

        for delay_ms in fate.delays_ms:
            if delay_ms:
                asyncio.get_running_loop().call_later(delay_ms / 1000, bring)
            else:
                bring()

    def lose_all_under_way(self) -> None:
        """Drop what the buses would still deliver."""
        self._wave += 1

    # What must be so once it is quiet

    def verify_viewers(self) -> None:
        """Every viewer that is connected and reads holds exactly the truth."""
        check = self.truth.check
        for viewer in self.viewers:
            connection = viewer.connection
            if connection is None or connection.congested:
                continue
            check(set(connection.held) == set(viewer.wanted), "watches what it wants", viewer.name)
            check(connection.stale_since_ms is None, "is live", viewer.name)
            for channel, held in connection.held.items():
                position, picture = self.truth.position(channel), self.truth.state(channel)
                check(picture is not None, "a channel that is gone has ended", channel)
                check(held.position == position, "converges", viewer.name, held, position)
                check(held.picture == Picture.of(picture), "shows the truth", viewer.name, held)
        for node in self.nodes:
            check(node.feed.stale_since_ms is None, "is verified")
            for channel, followed in node.feed.follower._followed.items():
                if followed.replica is not None and not followed.is_gone:
                    at, head = followed.replica.position, self.truth.position(channel)
                    check(at == head, "replicas converge", followed, head)
                    shown = Picture.of(followed.replica.state())
                    check(shown == Picture.of(self.truth.state(channel)), "replicas are the truth")
        self.verify()

    async def verify_quiet(self) -> None:
        """When nothing happens, nothing but heads is asked."""
        self.truth.asked.clear()
        await asyncio.sleep(5)
        asked = [question for question in self.truth.asked if question[0] != "heads"]
        self.truth.check(not asked, "nothing is read for nothing", asked)
        self.verify()

    def verify_nothing_is_left(self) -> None:
        """Whom nobody watches any more is forgotten everywhere."""
        check = self.truth.check
        for node in self.nodes:
            follower, hub = node.feed.follower, node.feed._hub
            check(not follower._followed, "nothing is followed", follower._followed)
            check(not follower.replicas, "no replicas are left", follower.replicas)
            check(not node.bus.channels, "no registrations are left", node.bus.channels)
            for name, table in vars(hub).items():
                if name.startswith("_") and isinstance(table, dict) and name != "_replicas":
                    check(not table, "the hub forgets", name, table)
            check(not hub._pending, "nothing is pending")
        self.verify()


class _StopError(Exception):
    """Ends the group that owns everything that runs."""


def _stop() -> None:
    raise _StopError


async def in_arena(scene: Callable[[Arena], Awaitable[None]]) -> None:
    """Play a scene in a fresh arena, and end everything that runs."""
    try:
        async with asyncio.TaskGroup() as tasks:
            arena = Arena(tasks)
            await asyncio.sleep(0)
            await scene(arena)
            _stop()
    except* _StopError:
        pass


def at_pace(truth: Truth, paces_ms: Sequence[tuple[int, int]]) -> None:
    """Let questions and answers take so long, in turn."""
    truth.paces = cycle([(before / 1000, after / 1000) for before, after in paces_ms])


def renewed(truth: RecordedTruth, epoch: str) -> None:
    """Begin a new history on all channels, as `zonecast resync` does."""
    for name, head in truth.heads.items():
        truth.heads[name] = replace(head, epoch=epoch, rev=head.rev + 1, floor=head.rev + 1)
    truth.note()
