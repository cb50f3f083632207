"""The browser's own tracing: what frames it drew and dropped, and what a page's main thread did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from playwright.async_api import Browser, Page

CATEGORIES: Final = (
    "devtools.timeline",
    "disabled-by-default-devtools.timeline",
    "disabled-by-default-devtools.timeline.frame",
)
LONG_TASK_US: Final = 50_000
"""As browsers' own performance timeline has it."""
_MAIN_THREAD: Final = "CrRendererMain"
_KINDS: Final = {
    "UpdateLayoutTree": "style",
    "Layout": "layout",
    "PrePaint": "paint",
    "Paint": "paint",
    "Layerize": "paint",
    "UpdateLayer": "paint",
    "Commit": "paint",
    "FunctionCall": "script",
    "FireAnimationFrame": "script",
    "TimerFire": "script",
    "EventDispatch": "script",
    "RunMicrotasks": "script",
    "V8.GC_MAIN_THREAD": "garbage",
    "MinorGC": "garbage",
    "MajorGC": "garbage",
}
"""What an event of the main thread is counted as; others count for what they are in."""

Event = Mapping[str, Any]


@dataclass(frozen=True)
class PageTrace:
    """What a page's browser did for it.

    Attributes:
        drawn: Frames that were drawn.
        dropped: Frames that were due, and not or only partly drawn.
        long_tasks: Tasks of the main thread of more than 50 ms.
        longest_task_ms: Its longest.
        busy_ms: How long the main thread did something.
        shares: Of that, what part was style, layout, paint, script, garbage and other.
    """

    drawn: int
    dropped: int
    long_tasks: int
    longest_task_ms: float
    busy_ms: float
    shares: Mapping[str, float]


async def begin(browser: Browser, page: Page) -> None:
    """Begin to trace a page; there may be one trace of a browser at a time."""
    await browser.start_tracing(page=page, categories=list(CATEGORIES))


async def end(browser: Browser) -> PageTrace:
    """End it, and return what it says."""
    events = json.loads(await browser.stop_tracing())["traceEvents"]
    return read(events)


def read(events: Iterable[Event]) -> PageTrace:
    """Read a trace of one page.

    Args:
        events: Those of the trace, in the format of Chromium's traces.
    """
    events = list(events)
    frames = Counter(event["name"] for event in events)
    process, main = _main_thread(events)
    spans = sorted(
        (
            event
            for event in events
            if event["ph"] == "X" and (event["pid"], event["tid"]) == (process, main)
        ),
        key=lambda event: (event["ts"], -event.get("dur", 0)),
    )
    tasks_us = [event.get("dur", 0) for event in spans if event["name"] == "RunTask"]
    times_us = _own_times(spans)
    busy_us = sum(times_us.values())
    return PageTrace(
        drawn=frames["DrawFrame"],
        dropped=frames["DroppedFrame"],
        long_tasks=sum(task_us > LONG_TASK_US for task_us in tasks_us),
        longest_task_ms=max(tasks_us, default=0) / 1000,
        busy_ms=busy_us / 1000,
        shares={kind: time_us / busy_us for kind, time_us in times_us.most_common()},
    )


def _main_thread(events: Iterable[Event]) -> tuple[int, int]:
    """Return process and thread of the renderer that did most: the page's."""
    renderers = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == _MAIN_THREAD
    }
    done = Counter((event["pid"], event["tid"]) for event in events if event["ph"] == "X")
    return max(renderers, key=done.__getitem__)


def _own_times(spans: Iterable[Event]) -> Counter[str]:
    """Return the time of each kind, in microseconds, without that of what it holds.

    Args:
        spans: Of one thread, by their beginnings, the outer before the inner.
    """
    times_us = Counter[str]()
    around: list[tuple[float, str]] = []
    for event in spans:
        begin_us, took_us = event["ts"], event.get("dur", 0)
        while around and around[-1][0] <= begin_us:
            around.pop()
        if not around and event["name"] != "RunTask":
            continue
        outer = around[-1][1] if around else "other"
        kind = _KINDS.get(event["name"], outer)
        times_us[kind] += took_us
        if around:
            times_us[outer] -= took_us
        around.append((begin_us + took_us, kind))
    return times_us
