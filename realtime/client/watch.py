"""The watch: zones kept as they are in the service, for the time of a block."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from channels.names import is_zone_id, zone_channel
from channels.positions import Position
from realtime.client.address import websocket_url
from realtime.client.errors import ConnectionLostError, WatchError
from realtime.client.keeping import Keeping
from realtime.client.mailbox import Mailbox
from realtime.client.options import WatchOptions
from realtime.client.picture import Picture
from realtime.client.tokens import Token, Tokens
from realtime.client.updates import Replaced, Status, Update
from realtime.client.zone import WatchedZone

CHECK_TRIES = 5


def watch(
    url: str,
    zones: Iterable[str] = (),
    *,
    token: Token | None = None,
    wait: bool = True,
    patient: bool = False,
    options: WatchOptions | None = None,
) -> Watch:
    """Watch zones of a service for the time of a block.

    ```python
    async with watch("http://127.0.0.1:8000", ["F1-Z1"]) as zones:
        async for change in zones:
            for zone_id in change.zone_ids:
                print(zone_id, [user.name for user in zones[zone_id].users.values()])
    ```

    The block begins when every zone's state is there; leaving it closes the connection. Lost
    connections are made anew with growing pauses, and go on where they were.

    Args:
        url: The service's address, `http(s)://host[:port]`.
        zones: Their ids; more can be added later.
        token: A token, or an async function that returns one, where the service asks for it.
        wait: Whether to begin the block only when every zone's state is there. If not, all that
            can go wrong is told to whoever iterates.
        patient: Whether to keep trying when nobody answers at the beginning.
        options: Bounds that differ from the defaults.

    Returns:
        The watch, to be entered once. Its mapping shows each zone as it is now; iterating it
        yields, in their order, what happened.

    Raises:
        WatchError: (on entering) nobody answers there, or refuses for good.
        ZoneRefusedError: (on entering) one of the zones isn't there, or isn't granted.
        TokenRefusedError: (on entering) the token isn't good.
        ValueError: a zone id is none.
    """
    return Watch(
        url,
        zones,
        tokens=Tokens(token),
        wait=wait,
        patient=patient,
        options=options or WatchOptions(),
    )


class Watch(Mapping[str, WatchedZone]):
    """Zones by id, kept as they are in the service. Made by `watch`."""

    def __init__(
        self,
        url: str,
        zones: Iterable[str],
        *,
        tokens: Tokens,
        wait: bool,
        patient: bool,
        options: WatchOptions,
    ) -> None:
        zone_ids = list(zones)
        for zone_id in zone_ids:
            _check_zone_id(zone_id)
        websocket_url(url)
        self._url = url
        self._is_waiting = wait
        self._options = options
        self._picture = Picture(zone_ids, self._subscribe_later)
        self._mailbox = Mailbox(options.queue_max_events, self._sum_up)
        self._mailbox.put([self._picture.status])
        self._keeping = Keeping(
            url, self._picture, tokens, options, is_patient=patient, tell=self._tell
        )
        self._moved = asyncio.Event()
        self._failure: WatchError | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Watch {self._url} {len(self)} zones, {self.status.state}>"

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = self._tasks.create_task(self._run())
        try:
            while self._is_waiting and not self._has_begun():
                await self._move()
        except BaseException as error:
            await self._end(error)
            raise
        return self

    def _has_begun(self) -> bool:
        return self.connections > 0 and self._picture.is_complete

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        """Stop, so that the block's own error leaves it as it is."""
        if self._running is not None:
            self._running.cancel()
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        try:
            await self._tasks.__aexit__(type(cancelled) if cancelled else None, cancelled, None)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    # What there is

    def __getitem__(self, zone_id: str) -> WatchedZone:
        return self._picture.zones[zone_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._picture.zones)

    def __len__(self) -> int:
        return len(self._picture.zones)

    @property
    def status(self) -> Status:
        """How good the picture is now."""
        return self._picture.status

    @property
    def node(self) -> str:
        """Which node answers, or did last; empty before the first did."""
        return self._keeping.node

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        return self._keeping.connections

    @property
    def resumed(self) -> int:
        """How many zones went on from where they were, after a lost connection."""
        return self._picture.resumed

    @property
    def renewed(self) -> int:
        """How many zones had to begin anew: see `Replaced.reason`."""
        return self._picture.renewed

    @property
    def times_behind(self) -> int:
        """How often changes came faster than they were taken, so that they were summed up."""
        return self._mailbox.times_behind

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Return what happened next. Cancel-safe; by one task at a time.

        The zones themselves may be farther already: they always are as they are known now.

        Raises:
            WatchError: the service can't be watched any more; it comes after all that was told.
        """
        return await self._mailbox.take()

    # What is to be watched

    def add(self, zone_id: str, minimum: Position | None = None) -> WatchedZone:
        """Watch one more zone; one that is watched already stays as it is. Never awaits.

        A refusal of it is told by `Gone`, and the others go on.

        Args:
            zone_id: Which zone.
            minimum: Nothing older is to be shown: the position that a write was answered with.

        Raises:
            ValueError: no zone can have this id.
        """
        _check_zone_id(zone_id)
        zone = self._picture.add(zone_id, minimum)
        self._tell(self._picture.retold())
        return zone

    def remove(self, zone_id: str) -> None:
        """Watch a zone no longer; unknown ones don't matter. Never awaits."""
        self._picture.remove(zone_id)
        self._tell(self._picture.retold())

    async def wait_for(self, positions: Mapping[str, Position], timeout_s: float) -> bool:
        """Wait until zones are at positions or later; tell whether they are. Cancel-safe.

        Raises:
            WatchError: the service can't be watched any more.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not all(
                    zone_id in self and self[zone_id].covers(position)
                    for zone_id, position in positions.items()
                ):
                    await self._move()
        except TimeoutError:
            return False
        return True

    async def check(self, zone_id: str) -> bool:
        """Ask the service for the digest of a zone, and tell whether it is that of ours.

        Both are compared at one position: a zone that moves is asked for again. Cancel-safe.

        Raises:
            WatchError: there is no answer now, or never at one position.
        """
        params: dict[str, object] = {"method": "digest", "data": {"channel": zone_channel(zone_id)}}
        for _ in range(CHECK_TRIES):
            connection = self._keeping.connection
            if connection is None:
                raise WatchError("there is no connection now")
            try:
                reply = await connection.ask("rpc", params, self._options.answer_timeout_s)
            except ConnectionLostError as error:
                raise WatchError(f"no digest of zone {zone_id}: {error}") from error
            body = reply.rpc.data if reply.rpc is not None else {}
            position = Position(body["epoch"], body["rev"])
            await self.wait_for({zone_id: position}, self._options.answer_timeout_s)
            if self[zone_id].position == position:
                return bool(self[zone_id].digest() == body["digest"])
        raise WatchError(f"zone {zone_id} moves too fast to be compared")

    # How it is kept

    async def _move(self) -> None:
        """Wait until something has changed.

        Raises:
            WatchError: nothing will any more.
        """
        if self._failure is not None:
            raise self._failure
        self._moved.clear()
        await self._moved.wait()

    def _tell(self, updates: Iterable[Update]) -> None:
        self._mailbox.put(updates)
        self._moved.set()
        self._keeping.has_due.set()

    def _sum_up(self) -> Replaced:
        states = (zone.state() for zone in self.values())
        return Replaced(tuple(state for state in states if state is not None), "behind")

    def _subscribe_later(self, zone: WatchedZone) -> None:
        def subscribe() -> None:
            self._picture.subscribe_again(zone)
            self._keeping.has_due.set()

        asyncio.get_running_loop().call_later(self._options.resubscribe_s, subscribe)

    async def _run(self) -> None:
        """Keep the zones until cancelled, or until that can't be done any more."""
        try:
            await self._keeping.run()
        except WatchError as error:
            self._failure = error
            self._mailbox.end(error)
            self._moved.set()


def _check_zone_id(zone_id: str) -> None:
    if not is_zone_id(zone_id):
        raise ValueError(f"not a zone id: {zone_id[:100]!r}")
