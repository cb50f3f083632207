"""The browser's trace: frames, long tasks and the main thread's time are read as they were."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from bench import browser_trace
from tests.browsers import running_browser

# Two seconds of motion, in which it stands still for 300 ms.
PAGE = """<!doctype html><div style="width: 40px; height: 40px; background: teal"></div><script>
const box = document.querySelector('div')
let frames = 0
const draw = () => {
  box.style.transform = `translateX(${++frames % 300}px)`
  if (frames === 30) for (const until = performance.now() + 300; performance.now() < until;);
  if (frames < 90) requestAnimationFrame(draw)
  else document.title = 'done'
}
requestAnimationFrame(draw)
</script>"""


def test_a_kind_has_its_own_time_and_not_that_of_what_it_holds() -> None:
    """Style that script forces is style; what is in no kind is other; other threads don't count."""

    def span(name: str, begin_us: int, took_us: int, thread: int = 1) -> dict[str, object]:
        return {"name": name, "ph": "X", "pid": 7, "tid": thread, "ts": begin_us, "dur": took_us}

    def mark(name: str, **more: object) -> dict[str, object]:
        return {"name": name, "ph": "I", "pid": 7, "tid": 2, "ts": 0, **more}

    trace = browser_trace.read(
        [
            mark("thread_name", tid=1, args={"name": "CrRendererMain"}),
            mark("DrawFrame"),
            mark("DroppedFrame"),
            mark("DrawFrame"),
            span("RunTask", 0, 60_000),
            span("FunctionCall", 10_000, 40_000),
            span("Unknown", 10_000, 20_000),
            span("UpdateLayoutTree", 12_000, 10_000),
            span("RunTask", 70_000, 40_000),
            span("Layout", 80_000, 20_000),
            span("RunTask", 0, 500_000, thread=3),
        ]
    )
    assert (trace.drawn, trace.dropped) == (2, 1)
    assert (trace.long_tasks, trace.longest_task_ms, trace.busy_ms) == (1, 60, 100)
    assert trace.shares == pytest.approx({"other": 0.4, "script": 0.3, "layout": 0.2, "style": 0.1})


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """A headless Chromium."""
    async with running_browser(chromium) as browser:
        yield browser


@pytest.mark.timeout(240)
async def test_a_page_that_stood_still_dropped_frames_in_a_long_task(browser: Browser) -> None:
    """In a real browser; how many frames it draws besides is the machine's business."""
    page = await browser.new_page()
    await browser_trace.begin(browser, page)
    await page.set_content(PAGE)
    await expect(page).to_have_title("done", timeout=60_000)
    trace = await browser_trace.end(browser)
    assert trace.drawn >= 30
    assert trace.dropped >= 5
    assert trace.long_tasks >= 1
    assert trace.longest_task_ms >= 300
    assert trace.shares["script"] > 0.3
    assert sum(trace.shares.values()) == pytest.approx(1)
