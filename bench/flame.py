"""Flame graphs: where a node spends the work of a measurement, sampled by py-spy.

No figures are taken meanwhile, as sampling stops the node hundreds of times a second.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.machine import MissingError
from bench.rows import Plan

RATE_HZ: Final = 250
BEGIN_TIMEOUT_S: Final = 30.0
END_TIMEOUT_S: Final = 120.0
_BEGUN: Final = b"Sampling process"
_ROOT: Final = Path(__file__).parents[1]
# A frame is `name (file)`. What is left of a file's path is what its package is called.
_LIBRARY: Final = re.compile(r"[^\s(>]*/(?:site-packages|dist-packages|lib/python3\.\d+)/")
_HEADING: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*(</text>)')
# The program that zooms is somebody else's, and viewers of repositories don't run it anyway.
_NOT_DRAWN: Final = re.compile(
    r"<!DOCTYPE[^>]*>|<!--.*?-->|<script.*?</script>| onload=\"[^\"]*\""
    r"|<text id=\"(?:details|unzoom|search|matched)\".*?</text>",
    re.DOTALL,
)
_FOREIGN: Final = re.compile(r" (?:xmlns:)?fg:?[a-z]*=\"[^\"]*\"")

Drawing = Callable[[Plan, Path], Coroutine[Any, Any, None]]
"""Does the work of a measurement, and draws it into a file."""


@asynccontextmanager
async def sampled(pid: int, file: Path, title: str) -> AsyncIterator[None]:
    """Draw what a process does inside the block; the file is there behind it.

    Args:
        pid: Of a Python process.
        file: An SVG; nothing in it names a place of this machine.
        title: Its heading.

    Raises:
        MissingError: py-spy is not here, may not look at the process, or found nothing.
    """
    program = await asyncio.to_thread(_program)
    if program is None:
        raise MissingError("flame graphs need py-spy: `python3 dev.py bench` installs it")
    spy = await asyncio.create_subprocess_exec(
        *(program, "record", "--pid", str(pid), "--output", str(file)),
        *("--rate", str(RATE_HZ), "--format", "flamegraph", "--function"),
        # Waiting threads of a pool would else be drawn as if they worked.
        "--gil",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await _wait_begun(spy)
        yield
        spy.send_signal(signal.SIGINT)
        async with asyncio.timeout(END_TIMEOUT_S):
            said, _ = await spy.communicate()
    finally:
        if spy.returncode is None:
            spy.kill()
        await spy.wait()
    if spy.returncode != 0:
        raise MissingError(f"py-spy drew nothing: {_last_line(said)}")
    await asyncio.to_thread(_tidy, file, title)


def _tidy(file: Path, title: str) -> None:
    if not file.exists():
        raise MissingError("py-spy drew nothing: the process did nothing meanwhile")
    file.write_text(without_places(file.read_text(encoding="utf-8"), title), encoding="utf-8")


def _program() -> str | None:
    beside_python = str(Path(sys.executable).parent)
    return shutil.which("py-spy", path=beside_python) or shutil.which("py-spy")


async def _wait_begun(spy: asyncio.subprocess.Process) -> None:
    output = spy.stdout
    if output is None:
        raise MissingError("py-spy has no output")
    said = b""
    try:
        async with asyncio.timeout(BEGIN_TIMEOUT_S):
            while _BEGUN not in said:
                part = await output.read(4096)
                said += part
                if not part:
                    raise MissingError(f"py-spy did not begin: {_last_line(said)}")
    except TimeoutError:
        raise MissingError(f"py-spy did not begin in {BEGIN_TIMEOUT_S:.0f} s") from None


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def without_places(svg: str, title: str) -> str:
    """Return a graph with another heading, of pictures alone, and without this machine's folders.

    Frames still tell their names and shares when the pointer is on them.
    """
    svg = _FOREIGN.sub("", _NOT_DRAWN.sub("", svg))
    svg = _LIBRARY.sub("", svg.replace(f"{_ROOT}/", ""))
    return _HEADING.sub(lambda found: f"{found[1]}{title}{found[2]}", svg)
