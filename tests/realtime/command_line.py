"""The `zonecast` command for tests: run as a process, with exactly the settings that are given."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = (sys.executable, "-c", "from realtime.command import main; main()")


def environment(**settings: str) -> dict[str, str]:
    """Return an environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZONECAST_")}
    return {**kept, **{f"ZONECAST_{name.upper()}": value for name, value in settings.items()}}


def zonecast(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run the command to its end; return exit code, output and errors."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
