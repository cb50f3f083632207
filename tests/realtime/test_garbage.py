"""Full collections of garbage look at what is new, and now and then at everything."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from realtime.garbage import GarbageCollection
from realtime.websocket.session import Session
from tests.realtime.wire_world import served, until


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave this process's collector as it was."""
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    gc.callbacks[:] = callbacks
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Clock:
    """Stands still, but where it is put forward."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def collect(*, took_s: float, collection: GarbageCollection, clock: Clock) -> None:
    """Let a full collection have taken so long."""
    collection.note("start", {"generation": 2})
    clock.now_s += took_s
    collection.note("stop", {"generation": 2})


def test_what_survives_a_long_collection_is_not_looked_at_again() -> None:
    """A short one leaves everything as it is: looking again costs little."""
    clock = Clock()
    collection = GarbageCollection(0.01, 10, clock)
    collect(took_s=0.009, collection=collection, clock=clock)
    assert gc.get_freeze_count() == 0
    collect(took_s=0.011, collection=collection, clock=clock)
    assert gc.get_freeze_count() > 1_000


def test_after_many_long_ones_everything_is_looked_at() -> None:
    """What has become garbage since it was frozen doesn't stay for ever."""
    clock = Clock()
    collection = GarbageCollection(0.01, 2, clock)
    for _ in range(2):
        collect(took_s=1, collection=collection, clock=clock)
    assert gc.get_freeze_count() > 1_000
    collect(took_s=1, collection=collection, clock=clock)
    assert gc.get_freeze_count() == 0
    collect(took_s=1, collection=collection, clock=clock)
    assert gc.get_freeze_count() > 1_000


def test_young_collections_freeze_nothing() -> None:
    """Most of what they look at is about to go."""
    collection = GarbageCollection(0, 10)
    for generation in (0, 1):
        collection.note("start", {"generation": generation})
        collection.note("stop", {"generation": generation})
    assert gc.get_freeze_count() == 0


def test_a_process_is_watched_from_its_beginning() -> None:
    """Python itself tells of its collections."""
    collection = GarbageCollection(0, 10)
    collection.begin()
    before = gc.get_freeze_count()
    assert before > 1_000
    kept = [[index] for index in range(1_000)]
    gc.collect()
    assert gc.get_freeze_count() >= before + len(kept)


async def test_sessions_that_end_are_freed_without_the_collector() -> None:
    """So to freeze those that are there keeps none of them in memory."""

    def sessions() -> int:
        # Not `isinstance`, which asks what weak references lead to.
        return sum(issubclass(type(found), Session) for found in gc.get_objects())

    async with served() as world:
        gc.collect()
        gc.disable()
        try:
            before = sessions()
            for _ in range(20):
                async with world.talker("zone:A"):
                    assert sessions() > before
            await until(lambda: sessions() == before)
        finally:
            gc.enable()
