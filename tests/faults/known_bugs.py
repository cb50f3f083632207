"""The catalogue of known bugs: each must be noticed by the suite, or the suite is blind to it."""

from __future__ import annotations

from typing import Final

from tests.faults.bugs_in_channels import BUGS_IN_CHANNELS
from tests.faults.bugs_in_copies import BUGS_IN_CACHE, BUGS_IN_DATABASE
from tests.faults.bugs_in_transports import BUGS_IN_TRANSPORTS
from tests.faults.known_bug import KnownBug

NO_BUG: Final = "none"

BUGS: Final[dict[str, KnownBug]] = {
    bug.name: bug
    for bugs in (BUGS_IN_CHANNELS, BUGS_IN_DATABASE, BUGS_IN_CACHE, BUGS_IN_TRANSPORTS)
    for bug in bugs
}
"""All bugs by name."""
