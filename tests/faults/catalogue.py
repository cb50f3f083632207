"""The catalogue at work: the suite is run with one bug after another, and must notice each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.faults.bug_plugin import REPORT_PREFIX, VARIABLE
from tests.faults.known_bug import KnownBug
from tests.faults.known_bugs import BUGS, NO_BUG

ROOT: Final = Path(__file__).parents[2]
RUN_MAX_S: Final = 50.0
CONTROL_EXAMPLES: Final = 20
"""Random programs without a bug: the suite itself runs many more."""
_OURS: Final = (VARIABLE, "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "ZONECAST_TEST_EXAMPLES")
_PLUGINS: Final = ("pytest_asyncio.plugin", "pytest_timeout", "tests.faults.bug_plugin")
_TEST_FAILED: Final = 1
"""Pytest's exit code; 2 to 5 say that nothing was put to the test."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a run of tests with a bug, or with none, brought.

    Attributes:
        bug: The bug's name, or `NO_BUG`.
        exit_code: Pytest's.
        reached: How often each of the bug's places was passed.
        caught_by: The test that failed first; empty: none did.
        text: What it failed of, or all output when nothing is known of it.
        duration_s: How long the run took, start of the interpreter and servers included.
    """

    bug: str
    exit_code: int
    reached: tuple[int, ...]
    caught_by: str
    text: str
    duration_s: float

    def blindness(self, bug: KnownBug) -> str:
        """Tell in what way the bug was not noticed, or not as it should be; empty: it was."""
        if self.exit_code != _TEST_FAILED:
            return f"not noticed: exit code {self.exit_code}"
        if not self.reached or not all(self.reached):
            return f"made, but never passed: {self.reached}"
        if not self.caught_by:
            return "no test failed, something that tests need did"
        if not re.search(bug.seen_as, self.text):
            return f"{self.caught_by} failed of something else than {bug.seen_as!r}"
        return ""


def run(bug: str, selection: Iterable[str], examples: int = 0) -> Sighting:
    """Run tests with a bug in a process of its own; blocks, at most `RUN_MAX_S`.

    Args:
        bug: The bug's name, or `NO_BUG`.
        selection: Arguments of pytest.
        examples: So many random programs, drawn anew; 0: those that the suite always runs.
    """
    plugins = [word for plugin in _PLUGINS for word in ("-p", plugin)]
    arguments = ["-q", "-x", "--tb=short", "-p", "no:cacheprovider", *plugins, *selection]
    # Other plugins would take longer to load than most of these runs take.
    env = {name: value for name, value in os.environ.items() if name not in _OURS}
    env |= {VARIABLE: bug, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env |= {"ZONECAST_TEST_EXAMPLES": str(examples)}
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_MAX_S,
        check=False,
    )
    duration_s = time.monotonic() - began_s
    report = _report_in(done.stdout)
    first: dict[str, str] = next(iter(report.get("failures", ())), {})
    return Sighting(
        bug,
        done.returncode,
        tuple(report.get("reached", ())),
        first.get("test", ""),
        first.get("text", done.stdout + done.stderr),
        duration_s,
    )


def _report_in(output: str) -> dict[str, Any]:
    for line in output.splitlines():
        if line.startswith(REPORT_PREFIX):
            report: dict[str, Any] = json.loads(line.removeprefix(REPORT_PREFIX))
            return report
    return {}


def selection_of_all() -> list[str]:
    """Return every test that a bug is seen by, once: without a bug all of them must pass."""
    return list(dict.fromkeys(test for bug in BUGS.values() for test in bug.seen_by))


def main(arguments: Sequence[str]) -> int:
    """Go through the bugs whose names hold one of the arguments; 1 when one isn't noticed."""
    console = Console()
    wanted = [bug for bug in BUGS.values() if not arguments or _is_named(bug, arguments)]
    table = Table(title=f"{len(wanted)} known bugs")
    for heading in ("bug", "promise", "caught by", "s"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "s" else "left")
    blind = []
    with console.status("") as status:
        for bug in wanted:
            status.update(bug.name)
            sighting = run(bug.name, bug.seen_by)
            if blindness := sighting.blindness(bug):
                blind.append(f"{bug.name}: {blindness}\n{sighting.text}")
            caught_by = blindness or sighting.caught_by.removeprefix("tests/")
            table.add_row(bug.name, bug.promise, caught_by, f"{sighting.duration_s:.1f}")
        status.update("no bug")
        control = run(NO_BUG, selection_of_all(), CONTROL_EXAMPLES)
    if control.exit_code != 0:
        blind.append(f"without a bug {control.caught_by or 'something'} fails\n{control.text}")
    console.print(table, markup=False)
    for lines in blind:
        console.print(lines, markup=False, highlight=False, soft_wrap=True)
    return 1 if blind else 0


def _is_named(bug: KnownBug, words: Iterable[str]) -> bool:
    return any(word in bug.name for word in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
