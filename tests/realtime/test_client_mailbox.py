"""The client's mailbox: order, the bound, and what a full one comes to."""

from __future__ import annotations

import asyncio

import pytest

from channels.positions import Position
from realtime.client import Changed, Gone, Replaced, Status, WatchError
from realtime.client.mailbox import Mailbox
from realtime.client.updates import ZoneState
from tests.realtime.client_messages import a_publication, a_user, entered

STATES = Replaced((ZoneState("A", Position("e1", 9), None, {}),), "behind")


def a_change(rev: int, events: int = 1) -> Changed:
    """Make a transaction of some events."""
    publication = a_publication(rev, *(entered(a_user(id_)) for id_ in range(events)))
    return Changed((publication.change("zone:A", "e1"),))


async def test_updates_come_in_their_order() -> None:
    """And the next one is waited for."""
    mailbox = Mailbox(10, lambda: STATES)
    mailbox.put([a_change(2), a_change(3)])
    assert (await mailbox.take()).zone_ids == ("A",)
    third = Status("live")
    async with asyncio.TaskGroup() as tasks:
        await mailbox.take()
        waiting = tasks.create_task(mailbox.take())
        await asyncio.sleep(0)
        mailbox.put([third])
    assert waiting.result() == third


async def test_a_full_mailbox_sums_up_what_was_not_taken() -> None:
    """Ends and the last status are kept, changes are in the states; later ones follow."""
    mailbox = Mailbox(3, lambda: STATES)
    mailbox.put([a_change(2), Gone("B", 2000, "gone"), Status("stale", 1), a_change(3)])
    mailbox.put([a_change(rev) for rev in range(4, 100)])
    mailbox.put([Status("live")])
    assert mailbox.times_behind == 1
    assert await mailbox.take() == Gone("B", 2000, "gone")
    later = a_change(100)
    mailbox.put([later])
    assert await mailbox.take() is STATES
    assert await mailbox.take() == Status("live")
    assert await mailbox.take() is later


async def test_one_update_larger_than_the_bound_is_taken_as_it_is() -> None:
    """Else nothing of that size could ever come."""
    mailbox = Mailbox(3, lambda: STATES)
    large = a_change(2, events=50)
    mailbox.put([large])
    assert mailbox.times_behind == 0
    assert await mailbox.take() is large


async def test_a_failure_comes_after_what_waits() -> None:
    """And again and again."""
    mailbox = Mailbox(3, lambda: STATES)
    mailbox.put([Status("live")])
    mailbox.end(WatchError("over"))
    assert await mailbox.take() == Status("live")
    for _ in range(2):
        with pytest.raises(WatchError, match="over"):
            await mailbox.take()


async def test_a_cancelled_reader_loses_nothing() -> None:
    """The update is there for the next one; two at once are refused."""
    mailbox = Mailbox(3, lambda: STATES)
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(mailbox.take())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task"):
            await mailbox.take()
        mailbox.put([Status("live")])
        reader.cancel()
    assert await mailbox.take() == Status("live")
