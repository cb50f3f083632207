"""Compiles the C programs of this folder into a scratch folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from bench.machine import MissingError

HERE: Final = Path(__file__).parent
SOURCES: Final = {"crowd": ("crowd.c", "stream.c"), "limit": ("limit.c",)}
COMPILE_TIMEOUT_S: Final = 60.0


def compiled(name: str, folder: Path) -> Path:
    """Return a program, compiling it when it isn't there yet; blocks for about a second.

    Args:
        name: `crowd` or `limit`.
        folder: Where it goes.

    Raises:
        MissingError: there is no compiler, or it failed.
    """
    program = folder / name
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingError("the load is a C program: install a compiler (gcc and libc6-dev)")
    sources = [str(HERE / source) for source in SOURCES[name]]
    answer = subprocess.run(
        [compiler, "-std=gnu11", "-O2", "-o", str(program), *sources],
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
        check=False,
    )
    if answer.returncode != 0:
        first = (answer.stderr.strip().splitlines() or ["no reason given"])[0]
        raise MissingError(f"{compiler} could not compile {name}: {first}")
    return program
