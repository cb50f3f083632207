"""Cancelling a task at a chosen one of its awaits, as the event loop would."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class CancelledAt(Generic[Value]):
    """Awaits a coroutine; cancels the task when it waits for the `index`-th time, from 0.

    Attributes:
        waits: How many times it has waited.
    """

    def __init__(self, work: Coroutine[Any, Any, Value], index: int) -> None:
        self.waits = 0
        self._work = work
        self._index = index

    def __await__(self) -> Generator[Any, Any, Value]:
        steps = self._work.__await__()
        try:
            future = steps.send(None)
            while True:
                if self.waits == self._index:
                    task = asyncio.current_task()
                    assert task is not None
                    # Noted by the task now, and done as soon as it gets the future.
                    task.cancel()
                self.waits += 1
                try:
                    answer = yield future
                except BaseException as error:  # noqa: BLE001 - handed on
                    future = steps.throw(error)
                else:
                    future = steps.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # What the coroutine returned.


async def run_cancelled_at(work: Coroutine[Any, Any, Value], index: int) -> bool:
    """Run `work` in a task of its own, cancelled at its `index`-th wait.

    Returns:
        Whether it was cancelled; `False`: it had ended before.

    Raises:
        Exception: what `work` raised instead.
    """
    awaited = CancelledAt(work, index)
    failures: list[Exception] = []

    async def run() -> None:
        try:
            await awaited
        except Exception as error:  # noqa: BLE001 - raised below; a group would wrap it
            failures.append(error)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await asyncio.wait((task,))
    for failure in failures:
        raise failure
    assert task.cancelled() == (awaited.waits > index)
    return task.cancelled()
