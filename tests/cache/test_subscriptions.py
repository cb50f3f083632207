"""The bookkeeping of subscriptions, step by step."""

from __future__ import annotations

import asyncio

import pytest

from cache.bus_config import BusKeys
from cache.subscriptions import Subscriptions

KEYS = BusKeys.of_node("p", "n")
A = KEYS.of_channel("zone:A")
B = KEYS.of_channel("zone:B")


@pytest.fixture
def subscriptions() -> Subscriptions:
    """Connected, with the control channels confirmed and the first gap told."""
    subscriptions = Subscriptions(KEYS)
    subscriptions.connected()
    for key in subscriptions.take_change(100).subscribe:
        subscriptions.answered(key)
    assert subscriptions.take_gap()
    return subscriptions


def test_the_control_channels_come_first() -> None:
    """Heartbeats must not wait behind thousands of channels."""
    subscriptions = Subscriptions(KEYS)
    subscriptions.want("zone:A")
    subscriptions.connected()
    assert set(subscriptions.take_change(2).subscribe) == {KEYS.own, KEYS.all_nodes}
    assert subscriptions.take_change(2).subscribe == (A,)


def test_commands_are_slices_of_all_that_is_wanted(subscriptions: Subscriptions) -> None:
    """No more names than asked for at a time, each once, in the order of interest."""
    channels = [f"zone:{i}" for i in range(7)]
    for channel in channels:
        subscriptions.want(channel)
    slices = [subscriptions.take_change(3).subscribe for _ in range(4)]
    assert [len(names) for names in slices] == [3, 3, 1, 0]
    assert [name for names in slices for name in names] == [KEYS.of_channel(c) for c in channels]


def test_a_change_of_mind_sends_nothing(subscriptions: Subscriptions) -> None:
    """Interest raised and dropped before it was sent never reaches the server."""
    subscriptions.want("zone:A")
    subscriptions.unwant("zone:A")
    assert not subscriptions.take_change(10)
    subscriptions.want("zone:A")
    subscriptions.take_change(10)
    subscriptions.answered(A)
    subscriptions.unwant("zone:A")
    subscriptions.want("zone:A")
    assert not subscriptions.take_change(10)
    assert subscriptions.is_confirmed("zone:A")


def test_an_answer_to_an_older_command_confirms_nothing(subscriptions: Subscriptions) -> None:
    """Only the answer to the last command tells how things are."""
    subscriptions.want("zone:A")
    subscriptions.take_change(10)
    subscriptions.unwant("zone:A")
    assert subscriptions.take_change(10).unsubscribe == (A,)
    subscriptions.want("zone:A")
    assert subscriptions.take_change(10).subscribe == (A,)
    for expected in (False, False, True):
        subscriptions.answered(A)
        assert subscriptions.is_confirmed("zone:A") == expected
    assert not subscriptions.take_gap()


def test_after_a_reconnect_everything_is_sent_again(subscriptions: Subscriptions) -> None:
    """The gap is told once, when the last channel is confirmed again, not before."""
    for channel in ("zone:A", "zone:B"):
        subscriptions.want(channel)
    for key in subscriptions.take_change(10).subscribe:
        subscriptions.answered(key)
    subscriptions.disconnected()
    assert not subscriptions.is_confirmed("zone:A")
    subscriptions.connected()
    keys = subscriptions.take_change(10).subscribe
    assert set(keys) == {A, B, KEYS.own, KEYS.all_nodes}
    for key in keys[:-1]:
        subscriptions.answered(key)
        assert not subscriptions.take_gap()
    subscriptions.answered(keys[-1])
    assert subscriptions.take_gap()
    assert not subscriptions.take_gap()


def test_interest_dropped_during_a_reconnect_does_not_hold_up_the_gap(
    subscriptions: Subscriptions,
) -> None:
    """A channel that nobody wants any more is not waited for."""
    subscriptions.want("zone:A")
    subscriptions.connected()
    sent = subscriptions.take_change(2).subscribe
    for key in sent:
        subscriptions.answered(key)
    assert not subscriptions.take_gap()
    subscriptions.unwant("zone:A")
    assert subscriptions.take_gap()
    assert not subscriptions.take_change(10)


def test_a_late_confirmation_is_a_gap(subscriptions: Subscriptions) -> None:
    """Who went on unconfirmed read its state before the channel was heard."""
    subscriptions.want("zone:A")
    subscriptions.take_change(10)
    subscriptions.note_unconfirmed("zone:A")
    assert not subscriptions.take_gap()
    subscriptions.answered(A)
    assert subscriptions.take_gap()


def test_an_answer_that_nobody_asked_for_is_a_gap(subscriptions: Subscriptions) -> None:
    """Somebody else made a subscription on this connection: nobody knows what was lost."""
    subscriptions.answered(A)
    assert subscriptions.take_gap()


async def test_all_who_wait_are_told(subscriptions: Subscriptions) -> None:
    """Several waiters of one channel share its confirmation."""
    subscriptions.want("zone:A")
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(subscriptions.wait_confirmed(["zone:A"], 5)) for _ in range(3)]
        await asyncio.sleep(0)
        subscriptions.take_change(10)
        subscriptions.answered(A)
    assert [wait.result() for wait in waits] == [True, True, True]


async def test_a_waiter_that_gives_up_takes_nothing_with_it(subscriptions: Subscriptions) -> None:
    """One waiter's timeout or cancellation leaves the others waiting, and nothing behind."""
    subscriptions.want("zone:A")
    async with asyncio.TaskGroup() as group:
        patient = group.create_task(subscriptions.wait_confirmed(["zone:A"], 5))
        cancelled = group.create_task(subscriptions.wait_confirmed(["zone:A"], 5))
        await asyncio.sleep(0)
        assert not await subscriptions.wait_confirmed(["zone:A"], 0.001)
        cancelled.cancel()
        await asyncio.sleep(0)
        subscriptions.take_change(10)
        subscriptions.answered(A)
    assert patient.result()
    assert not subscriptions._waiters
