"""Attendance: who watches a channel, over all nodes, and who came and left since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from channels.feed import Feed
from channels.ports import UnavailableError
from channels.presence import (
    Asked,
    Clients,
    Counted,
    Difference,
    Nodes,
    NoOtherNodes,
    Presence,
    Tally,
)
from channels.subscribers import Subscriber
from realtime.connections import Connections
from realtime.presence_settings import PresenceSettings

SLICE: Final = 1_000
"""So many connections are looked at before the event loop has its turn again."""
BATCH_MAX_CHANNELS: Final = 20
"""So many channels are asked for at once."""

Follower = Subscriber[Any]
Tell = Callable[[Any, Difference], None]
"""Tells a follower who came and who left. Never awaits or raises."""


class TooManyWaitingError(Exception):
    """More channels are asked for than may wait."""


@dataclass(slots=True)
class _Wanted:
    """What is to be asked of a channel, and who waits for it."""

    is_named: bool = False
    waiters: list[asyncio.Future[Presence]] = field(default_factory=list)


class Attendance:
    """Who watches what. Nothing is kept of connections: who wants to know looks at them.

    One question to the other nodes is under way at a time, and has all channels that somebody
    wants to know of. Who asks meanwhile waits for the next one, so that an answer is never older
    than its question.

    Joins and leaves are what two answers differ in, so none is lost for longer than the others
    can't be asked, and who is slow is told of all at once later. A channel without followers costs
    nothing.

    Args:
        feed: Knows who watches at this node.
        connections: Knows who they are.
        nodes: The other nodes.
        settings: The bounds.
    """

    def __init__(
        self,
        feed: Feed,
        connections: Connections,
        settings: PresenceSettings,
        nodes: Nodes | None = None,
    ) -> None:
        self._feed = feed
        self._connections = connections
        self._nodes = nodes or NoOtherNodes()
        self._settings = settings
        self._wanted: dict[str, _Wanted] = {}
        self._news = asyncio.Event()
        # What each follower was told last; None: it knows of nobody yet.
        self._followers: dict[str, dict[Follower, tuple[Clients | None, Tell]]] = {}

    async def run(self) -> None:
        """Ask and answer, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run(self.count))
            tasks.create_task(self._compare())
            while True:
                await self._news.wait()
                await self._ask_for(self._take_wanted())
                # Who was answered answers its client before it can be told of news.
                await asyncio.sleep(0)

    # Asking

    async def look(self, channel: str, *, is_named: bool = True) -> Presence:
        """Return who watches a channel, over all nodes. Bounded, cancel-safe.

        Args:
            channel: Which.
            is_named: Whether who they are is wanted, too, and not only how many.

        Raises:
            UnavailableError: a node can't be asked; what the rest knows would pass for the whole.
            TooManyWaitingError: too many channels wait to be asked for.
        """
        if channel not in self._wanted:
            if len(self._wanted) >= self._settings.presence_max_waiting_channels:
                raise TooManyWaitingError
            self._want(channel)
        wanted = self._wanted[channel]
        wanted.is_named |= is_named
        answered: asyncio.Future[Presence] = asyncio.get_running_loop().create_future()
        wanted.waiters.append(answered)
        return await answered

    def _want(self, channel: str) -> None:
        self._wanted.setdefault(channel, _Wanted())
        self._news.set()

    def _take_wanted(self) -> dict[str, _Wanted]:
        taken = {
            channel: self._wanted.pop(channel)
            for channel in list(islice(self._wanted, BATCH_MAX_CHANNELS))
        }
        if not self._wanted:
            self._news.clear()
        return taken

    async def _ask_for(self, wanted: dict[str, _Wanted]) -> None:
        asked = {
            channel: each.is_named or channel in self._followers for channel, each in wanted.items()
        }
        try:
            others = await self._nodes.ask(asked)
        except UnavailableError as error:
            for waiter in _waiting(wanted.values()):
                waiter.set_exception(UnavailableError(error.what, error.reason))
            return
        # Last, so that who subscribed before it asked is counted.
        everybody = [*others, await self.count(asked)]
        most = self._settings.presence_max_clients
        for channel, each in wanted.items():
            parts = [counted[channel] for counted in everybody if channel in counted]
            presence = Presence.of_nodes(parts, most)
            self._learn(channel, presence)
            for waiter in _waiting([each]):
                waiter.set_result(presence)

    # Counting

    async def count(self, channels: Asked) -> Counted:
        """Count who watches channels here; those that nobody watches are left out. Cancel-safe."""
        found = {}
        for channel, is_named in channels.items():
            watchers = self._feed.watchers_of(channel)
            if not watchers:
                continue
            tally = Tally(self._settings.presence_max_clients if is_named else -1)
            for index, watcher in enumerate(watchers, 1):
                card = self._connections.card_of(watcher)
                if card is not None:
                    tally.add(card.connection_id, card.subject)
                if index % SLICE == 0:
                    await asyncio.sleep(0)
            found[channel] = tally.headcount()
        return found

    # Joins and leaves

    def may_follow(self, channel: str) -> bool:
        """Tell whether somebody more may be told of a channel's joins and leaves."""
        most = self._settings.presence_max_followed_channels
        return channel in self._followers or len(self._followers) < most

    def follow(self, follower: Follower, channel: str, tell: Tell) -> None:
        """Tell a subscriber who comes and leaves from now on, until it unsubscribes."""
        self._followers.setdefault(channel, {})[follower] = None, tell
        # At once: what it is told later is what differs from now.
        self._want(channel)

    def unfollow(self, follower: Follower, channel: str) -> None:
        """Tell a subscriber nothing more; unknown ones are ignored."""
        followers = self._followers.get(channel, {})
        if follower in followers:
            del followers[follower]
            if not followers:
                del self._followers[channel]

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(self._settings.presence_interval_s)
            for channel in list(self._followers):
                self._forget_gone(channel)
                if channel in self._followers:
                    self._want(channel)

    def _forget_gone(self, channel: str) -> None:
        for follower in list(self._followers[channel]):
            if not self._feed.watches(follower, channel):
                self.unfollow(follower, channel)

    def _learn(self, channel: str, presence: Presence) -> None:
        """Tell followers what is new to them; who doesn't read is told later."""
        followers = self._followers.get(channel)
        after = presence.clients
        if not followers or after is None:
            return
        differences: dict[int, Difference] = {}
        for follower, (before, tell) in list(followers.items()):
            if not self._feed.watches(follower, channel) or follower.congested:
                continue
            followers[follower] = after, tell
            if before is None:
                continue
            difference = differences.get(id(before))
            if difference is None:
                difference = Difference.between(channel, before, after)
                differences[id(before)] = difference
            if difference:
                tell(follower, difference)


def _waiting(wanted: Iterable[_Wanted]) -> list[asyncio.Future[Presence]]:
    """Return who still waits."""
    return [waiter for each in wanted for waiter in each.waiters if not waiter.done()]
