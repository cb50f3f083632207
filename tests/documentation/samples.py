"""Samples of the documentation that are run: code behind a line `<!-- run: NAME -->`.

What can't be run has `<!-- not run: WHY -->` there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import textwrap
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
PACKAGES: Final = ROOT / "tests" / "clients"
"""Beside the packages that `npm install` would bring."""
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
COMMANDS: Final = {
    "js": ["node", "--input-type=module", "-e"],
    "python": [sys.executable, "-u", "-c"],
    "sh": ["bash", "-ec"],
}
_SAMPLE: Final = re.compile(
    r"^ *<!-- run: ([a-z-]+) -->\n *```([a-z]+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_MARK: Final = re.compile(r"<!-- run: ([a-z-]+) -->")
_CODE: Final = re.compile(r"^(.*)\n *```[a-z]+$", re.MULTILINE)
_SERVICE: Final = re.compile(r"(localhost|127\.0\.0\.1):8000|(?<=://)\w+\.example(?=[/\"'])")
_TLS: Final = re.compile(r"\b(ws|http)s(?=://127\.0\.0\.1)")


@dataclass(frozen=True)
class Sample:
    """Code of a page.

    Attributes:
        language: As its fence names it.
        code: As it stands there.
    """

    language: str
    code: str

    def at(self, port: int) -> str:
        """Return the code for a node at another place than what is written there."""
        return _TLS.sub(r"\1", _SERVICE.sub(f"127.0.0.1:{port}", self.code))


def samples() -> dict[str, Sample]:
    """Return all samples by name; a mark without code is an error."""
    found: dict[str, Sample] = {}
    for page in PAGES:
        text = page.read_text()
        here = {
            name: Sample(language, textwrap.dedent(code))
            for name, language, code in _SAMPLE.findall(text)
        }
        marks = _MARK.findall(text)
        if sorted(marks) != sorted(here) or here.keys() & found.keys():
            raise ValueError(f"{page.name}: a mark without code, or a name twice: {marks}")
        found |= here
    return found


SAMPLES: Final = samples()


def unmarked() -> list[str]:
    """Return the lines before code of which nothing says whether it is run."""
    return [
        f"{page.name}: {line}"
        for page in PAGES
        for line in _CODE.findall(page.read_text())
        if not re.fullmatch(r" *<!-- (not )?run: .+ -->", line)
    ]


@asynccontextmanager
async def started(name: str, port: int, **settings: str) -> AsyncIterator[Process]:
    """Run a sample until the body ends."""
    sample = SAMPLES[name]
    process = await asyncio.create_subprocess_exec(
        *COMMANDS[sample.language],
        sample.at(port).replace(".venv/bin", str(BIN)),
        cwd=PACKAGES if sample.language == "js" else ROOT,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1"} | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # A pipe is several processes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def until_printed(process: Process, *texts: str) -> None:
    """Read what a sample prints until it has printed these, in this order."""
    assert process.stdout is not None
    printed = b""
    for text in texts:
        while text.encode() not in printed:
            # Not by lines: an answer may be one without an end.
            piece = await process.stdout.read(65_536)
            assert piece, f"{text!r} was not printed, but: {printed.decode()}"
            printed += piece
        printed = printed.partition(text.encode())[2]


async def done(name: str, port: int, **settings: str) -> str:
    """Run a sample to its end; return what it printed."""
    async with started(name, port, **settings) as process:
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        return printed.decode()
