"""Samples of the documentation that are run: code behind a line `<!-- run: NAME -->`."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    "README.md",
    "docs/howto/clients.md",
    "docs/howto/sse_feed.md",
    "docs/howto/testing.md",
)
_SAMPLE: Final = re.compile(
    r"^ *<!-- run: ([a-z-]+) -->\n *```([a-z]+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_MARK: Final = re.compile(r"<!-- run: ([a-z-]+) -->")


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
        """Return the code for a node at another port than the one that is written there."""
        return self.code.replace("localhost:8000", f"127.0.0.1:{port}")


def samples() -> dict[str, Sample]:
    """Return all samples by name; a mark without code is an error."""
    found: dict[str, Sample] = {}
    for page in PAGES:
        text = (ROOT / page).read_text()
        here = {
            name: Sample(language, textwrap.dedent(code))
            for name, language, code in _SAMPLE.findall(text)
        }
        marks = _MARK.findall(text)
        if sorted(marks) != sorted(here) or here.keys() & found.keys():
            raise ValueError(f"{page}: a mark without code, or a name twice: {marks}")
        found |= here
    return found
