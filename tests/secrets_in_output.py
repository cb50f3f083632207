"""Secrets in what the service prints: the marks that the suite's own have, and how to find them."""

from __future__ import annotations

import re
from typing import Final

from tests.realtime.auth.minter import OTHER_SECRET, SECRET

MARKS: Final = (SECRET, OTHER_SECRET, "hunter2", "hush-hush")
"""Passwords and keys that tests give to nodes: none may ever be printed by one."""

_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")


def secrets_in(text: str) -> list[str]:
    """Return the lines of a text that hold a marked secret, or a token that is whole."""
    return [
        line
        for line in text.splitlines()
        if any(mark in line for mark in MARKS) or _JWT.search(line)
    ]
