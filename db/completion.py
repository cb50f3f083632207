"""Work that is carried through although its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


async def run_to_end(work: Coroutine[Any, Any, Value]) -> Value:
    """Await `work` to its end; a cancellation that came meanwhile is raised after it.

    For steps that must not be left halfway, such as a COMMIT, whose outcome nobody would
    know. They have to be bounded in time by themselves.

    Raises:
        asyncio.CancelledError: the caller was cancelled, whatever became of `work`.
        BaseException: what `work` raised.
    """

    async def note_outcome() -> tuple[Value | None, BaseException | None]:
        try:
            return await work, None
        except BaseException as error:  # noqa: BLE001 - raised below; a group would wrap it
            return None, error

    cancelled: asyncio.CancelledError | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(note_outcome())
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error
    value, failure = task.result()
    if cancelled is not None:
        raise cancelled from failure
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value] # Of the type of `work` when it didn't fail.
