"""A program: the steps of an adversary, carried out in an arena, and how it must end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from channels.feed import UnknownChannelError
from channels.names import DIRECTORY, UNASSIGNED, zone_channel
from channels.ports import UnavailableError
from channels.replica import encode_state
from tests.channels.adversary import Arena, Fate, at_pace, in_arena, renewed
from tests.channels.virtual_time import run_in_virtual_time

Step = tuple[Any, ...]
Moves = Sequence[tuple[int, int]]

ZONE_IDS: Final = ("A", "B", "C", "D")
CHANNELS: Final = (*map(zone_channel, ZONE_IDS[:3]), DIRECTORY, UNASSIGNED, zone_channel("D"))
SETTLES_IN_S: Final = 6.0
"""Parts are given up after 2 to 3 s, then resumed; everything else is quicker."""


class Program:
    """Carries out steps; numbers choose among what there is."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._truth = arena.truth
        self._backups = deque([arena.truth.back_up()], maxlen=6)
        self._numbers = iter(range(2, 1_000_000))

    def _zone(self, number: int) -> str | None:
        """Choose a zone that there is, or none."""
        return [None, *sorted(self._truth.zones)][number % (len(self._truth.zones) + 1)]

    def _moved(self, moves: Moves) -> list[tuple[int, str | None]]:
        return [(user_id, self._zone(number)) for user_id, number in moves]

    def _epoch(self) -> str:
        return f"e{next(self._numbers)}"

    def back_up(self, step: str) -> None:
        """Copy what is there before it is written to; so far back it can be restored."""
        if step in {"commit", "rename", "delete", "create"}:
            self._backups.append(self._truth.back_up())

    # What is committed

    async def commit(self, writer: int, moves: Moves, fates: Sequence[Fate]) -> None:
        transaction = self._truth.commit(self._moved(moves))
        self._arena.committed(transaction, writer, fates)

    async def rename(self, writer: int, number: int, fates: Sequence[Fate]) -> None:
        if zone_id := self._zone(number):
            transaction = self._truth.rename_zone(zone_id, f"name {next(self._numbers)}")
            self._arena.committed(transaction, writer, fates)

    async def delete(self, writer: int, number: int, to: int, fates: Sequence[Fate]) -> None:
        zone_id, target = self._zone(number), self._zone(to)
        if zone_id is not None and zone_id != target:
            transaction = self._truth.delete_zone(zone_id, target)
            self._arena.committed(transaction, writer, fates)

    async def create(self, writer: int, moves: Moves, fates: Sequence[Fate]) -> None:
        missing = [zone_id for zone_id in ZONE_IDS if zone_id not in self._truth.zones]
        if missing:
            moved = [(user_id, missing[0]) for user_id, _ in moves]
            transaction = self._truth.create_zone(missing[0], self._epoch(), moved)
            self._arena.committed(transaction, writer, fates)

    # What is done to the database

    async def compact(self, number: int, kept: int) -> None:
        head = self._truth.heads.get(CHANNELS[number])
        if head is not None:
            head.floor = max(head.floor, head.rev - kept)

    async def renew(self) -> None:
        renewed(self._truth, self._epoch())

    async def restart(self) -> None:
        self._truth.identity = f"-{next(self._numbers)}"
        self._truth.note()

    async def restore(self, number: int) -> None:
        self._truth.identity = f"-{next(self._numbers)}"
        self._truth.restore(self._backups[-1 - number % len(self._backups)])

    async def rewind(self, number: int) -> None:
        """Rewrite rows in place: noticed while the head is behind what was seen of it."""
        truth = self._truth
        backup = self._backups[-1 - number % len(self._backups)]
        if truth.down or backup.identity != truth.identity:
            return
        if {n: h.epoch for n, h in backup.heads.items()} != {
            n: h.epoch for n, h in truth.heads.items()
        } or backup.zones.keys() != truth.zones.keys():
            return
        # Later ones are of a branch that is given up: the same revisions mean something else.
        while self._backups[-1] is not backup:
            self._backups.pop()
        self._arena.lose_all_under_way()
        truth.restore(backup)
        self._forget_positions_ahead()
        await asyncio.sleep(SETTLES_IN_S)
        # An answer that was under way may have been taken, until the heads were compared.
        truth.forgive_going_back()
        self._forget_positions_ahead()

    def _forget_positions_ahead(self) -> None:
        for viewer in self._arena.viewers:
            for channel, position in list(viewer.positions.items()):
                if position.rev > self._truth.heads[channel].rev:
                    viewer.retain(channel, None)

    async def database_down(self, ms: int) -> None:
        self._truth.set_down(down=True)
        self._later(ms, lambda: self._truth.set_down(down=False))

    async def pace(self, paces_ms: Sequence[tuple[int, int]]) -> None:
        at_pace(self._truth, paces_ms)

    async def bus_down(self, number: int, ms: int) -> None:
        bus = self._arena.nodes[number].bus
        bus.set_down(down=True)
        self._later(ms, lambda: bus.set_down(down=False))

    def _later(self, ms: int, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(ms / 1000, act)

    # What viewers do

    async def join(self, viewer: int, node: int, channels: Sequence[int], patience: int) -> None:
        who = self._arena.viewers[viewer]
        who.wanted |= dict.fromkeys(CHANNELS[number] for number in channels)
        who.patience_s = None if patience < 0 else patience / 1000
        who.news.set()
        if who.connection is None:
            who.connect(self._arena.nodes[node], self._arena.tasks)

    async def unsubscribe(self, viewer: int, number: int) -> None:
        who = self._arena.viewers[viewer]
        if who.wanted:
            who.unsubscribe(list(who.wanted)[number % len(who.wanted)])

    async def swap(self, viewer: int, number: int) -> None:
        """Unsubscribe and subscribe again in the same breath."""
        who = self._arena.viewers[viewer]
        channel = CHANNELS[number]
        who.unsubscribe(channel)
        who.wanted[channel] = None
        who.news.set()

    async def leave(self, viewer: int, cancels: bool, node: int, ms: int) -> None:  # noqa: FBT001 - a step's argument
        """Leave, and come back after a while."""
        who = self._arena.viewers[viewer]
        who.disconnect(cancels=cancels)

        def come_back() -> None:
            if who.connection is None:
                who.connect(self._arena.nodes[node], self._arena.tasks)

        self._later(ms, come_back)

    async def congest(self, viewer: int, ms: int) -> None:
        """Read nothing for a while."""
        connection = self._arena.viewers[viewer].connection
        if connection is not None:
            connection.congested = True
            self._later(ms, connection.drain)

    async def refuse(self, viewer: int) -> None:
        if connection := self._arena.viewers[viewer].connection:
            connection.refuses = True

    async def read(self, node: int, number: int) -> None:
        self._arena.tasks.create_task(self._read(node, CHANNELS[number]))

    async def _read(self, node: int, channel: str) -> None:
        """Read what was written: never older than now."""
        truth, feed = self._truth, self._arena.nodes[node].feed
        moment, now_s = truth.moment, asyncio.get_running_loop().time()
        minimum = truth.position(channel) if channel in truth.heads else None
        try:
            snapshot = await feed.snapshot(channel, minimum)
        except UnknownChannelError:
            truth.check(truth.was_absent_since(channel, moment), "unknown only when absent")
        except UnavailableError:
            truth.check(truth.was_down_since(now_s), "unavailable only when down")
        else:
            told = truth.states_at(channel, snapshot.position)
            bodies = [encode_state(state) for state in told]
            truth.check(snapshot.body in bodies, "the body is the state at its position", channel)
            is_late = truth.moment_of(channel, snapshot.position) >= moment
            covers = minimum is None or snapshot.position.covers(minimum) or is_late
            truth.check(covers, "never older than asked for", channel, minimum, snapshot)

    async def poll(self, node: int, number: int, timeout_ms: int) -> None:
        self._arena.tasks.create_task(self._poll(node, CHANNELS[number], timeout_ms / 1000))

    async def _poll(self, node: int, channel: str, timeout_s: float) -> None:
        truth, now_s = self._truth, asyncio.get_running_loop().time()
        if channel not in truth.heads:
            return
        position, moment = truth.position(channel), truth.moment
        try:
            moved = await self._arena.nodes[node].feed.wait_beyond(channel, position, timeout_s)
        except UnknownChannelError:
            truth.check(truth.was_absent_since(channel, moment), "unknown only when absent")
        except UnavailableError:
            truth.check(truth.was_down_since(now_s), "unavailable only when down")
        else:
            waited_s = asyncio.get_running_loop().time() - now_s
            truth.check(moved or waited_s > timeout_s - 0.001, "a poll waits as long as asked")

    async def wait(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)

    async def settle(self) -> None:
        """While the database answers, all that read are in the truth after a while."""
        if not self._truth.down:
            await asyncio.sleep(SETTLES_IN_S)
            self._arena.verify_viewers()

    async def end(self) -> None:
        """Without a bus, but with the database, everybody ends in the truth, then leaves."""
        arena = self._arena
        arena.is_silent = True
        self._truth.set_down(down=False)
        for number, viewer in enumerate(arena.viewers):
            viewer.patience_s = None
            if viewer.connection is None:
                viewer.connect(arena.nodes[number % 2], arena.tasks)
            elif viewer.connection.congested:
                viewer.connection.drain()
        await asyncio.sleep(SETTLES_IN_S)
        arena.verify_viewers()
        await arena.verify_quiet()
        for viewer in arena.viewers:
            viewer.disconnect(cancels=True)
        await asyncio.sleep(2)
        arena.verify_nothing_is_left()
        await arena.verify_quiet()


def play(steps: Sequence[Step]) -> None:
    """Run a program to its end in a fresh arena."""

    async def scene(arena: Arena) -> None:
        program = Program(arena)
        for name, *arguments in [*steps, ("end",)]:
            step: Callable[..., Awaitable[None]] = getattr(program, name)
            program.back_up(name)
            await step(*arguments)
            arena.verify()

    run_in_virtual_time(in_arena(scene))
