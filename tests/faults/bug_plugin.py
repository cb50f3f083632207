"""A plugin of pytest that makes one known bug: `-p tests.faults.bug_plugin`.

`ZONECAST_TEST_BUG` names the bug; `none` makes none. At the end it prints one line of JSON: how
often the bug's places were passed, and which tests failed of what.
"""

from __future__ import annotations

import json
import os
from typing import Final

import pytest
from hypothesis import Phase, settings

from tests.faults import edits
from tests.faults.known_bugs import BUGS, NO_BUG

VARIABLE: Final = "ZONECAST_TEST_BUG"
REPORT_PREFIX: Final = "known bug: "
_TEXT_MAX_CHARS: Final = 20_000


class BugMaker:
    """The bug of this process, and what came of it."""

    def __init__(self, name: str) -> None:
        wanted = () if name == NO_BUG else BUGS[name].edits
        self._name = name
        self._reaches = [edits.apply(edit) for edit in wanted]
        self._failures: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure: of the test itself, not of what it needs."""
        if report.failed and report.when == "call":
            text = report.longreprtext[-_TEXT_MAX_CHARS:]
            self._failures.append({"test": report.nodeid, "text": text})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the report."""
        reached = [reach.count for reach in self._reaches]
        report = {"bug": self._name, "reached": reached, "failures": self._failures}
        terminalreporter.write_line(REPORT_PREFIX + json.dumps(report))


def pytest_configure(config: pytest.Config) -> None:
    """Make the bug, before anything of the product runs."""
    name = os.environ.get(VARIABLE, "")
    if name != NO_BUG and name not in BUGS:
        raise pytest.UsageError(f"{VARIABLE}: no bug {name!r}")
    # The failing example will do: nobody reads it, so it needn't be the smallest.
    settings.register_profile("known bug", phases=[Phase.explicit, Phase.generate])
    settings.load_profile("known bug")
    try:
        maker = BugMaker(name)
    except edits.EditError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(maker)
