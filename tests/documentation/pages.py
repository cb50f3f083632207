"""Writes the pages of the documentation that are made from the code: `python3 dev.py docs`."""

from __future__ import annotations

import json
from pathlib import Path

from realtime.api.documentation import describe
from realtime.app import build_app
from realtime.settings import Settings
from tests.documentation.channels_document import channels_document
from tests.documentation.http_page import page_of

DOCS = Path(__file__).parents[2] / "docs"


def made_pages() -> dict[Path, str]:
    """Return what the pages are to hold."""
    app = build_app(Settings())
    return {
        DOCS / "http.md": page_of(describe(app)),
        DOCS / "asyncapi.json": json.dumps(channels_document(), indent=1) + "\n",
    }


if __name__ == "__main__":
    for path, text in made_pages().items():
        path.write_text(text)
