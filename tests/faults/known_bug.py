"""What an entry of the catalogue of known bugs is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.edits import Edit


@dataclass(frozen=True, slots=True)
class KnownBug:
    """A mistake that is easily made, and the tests that must notice it.

    Attributes:
        name: What is wrong, in a few words.
        promise: What it breaks, by its name in `docs/guarantees.md`.
        edits: What makes it.
        seen_by: The smallest selection of tests that notices it, as arguments of pytest.
        seen_as: A regular expression that the failure's text matches: it is this mistake that
            was noticed, and not one in the edit.
        servers: Fixtures of what has to be installed for the tests not to skip.
    """

    name: str
    promise: str
    edits: tuple[Edit, ...]
    seen_by: tuple[str, ...]
    seen_as: str
    servers: tuple[str, ...] = ()
