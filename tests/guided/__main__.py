"""Fuzz the readers of foreign bytes for a while: `python3 dev.py fuzz`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.guided.targets import TARGETS

_DONE: Final = re.compile(r"Done (\d+) runs in")
_COVERED: Final = re.compile(r"cov: (\d+)")
GRACE_S: Final = 60


def main() -> int:
    """Fuzz each target in a process of its own; tell what was found."""
    parser = argparse.ArgumentParser(prog="dev.py fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=30, help="for each (default: 30)")
    options = parser.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = [name for name in options.targets or TARGETS if not _fuzz(name, options.seconds)]
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(TARGETS[name][1]):
            (corpus / str(number)).write_bytes(seed)
        command = [sys.executable, "-m", "tests.guided.process", name, str(corpus)]
        command += [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-timeout=5"]
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + GRACE_S
        )
        said = found.stdout + found.stderr
        inputs = [file.read_bytes() for file in Path(folder).iterdir() if file.is_file()]
    done, covered = _DONE.search(said), _COVERED.findall(said)
    tell = Console(highlight=False, markup=False, soft_wrap=True).print
    if found.returncode == 0 and done is not None:
        reached = covered[-1] if covered else 0
        tell(f"{name}: {int(done[1]):,} inputs, {reached} branches, no fault")
        return True
    tell(f"{name}: FAULT")
    for data in inputs:
        tell(f"  input: {data!r}")
    tell("  " + "\n  ".join(said.splitlines()[-30:]))
    return False


if __name__ == "__main__":
    sys.exit(main())
