"""The machine: who runs on which core, and what a process has used of it."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_SPARE_FILES: Final = 500


class MissingError(Exception):
    """Something that a measurement needs is not here; the message says what to do, in a line."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core is the server's, and which are everybody else's.

    Attributes:
        server: The core that is measured.
        others: Load, publisher, Redis and PostgreSQL; the same one where there is only one.
    """

    server: int
    others: frozenset[int]

    @classmethod
    def of_machine(cls) -> Cores:
        """Share out the cores that this process may use."""
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(first, frozenset(rest or [first]))

    @contextmanager
    def left_to_server(self) -> Iterator[None]:
        """Keep this process, and all that it starts, off the server's core inside the block."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.others)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    @property
    def prefix(self) -> list[str]:
        """Begins the command of a server, so that it runs on its core alone.

        Raises:
            MissingError: there is no `taskset`.
        """
        taskset = shutil.which("taskset")
        if taskset is None:
            raise MissingError("pinning needs `taskset`: install util-linux")
        return [taskset, "-c", str(self.server)]


def allow_files(count: int) -> None:
    """Let this process and its children have `count` open files, and some more.

    Raises:
        MissingError: the machine's limit is below.
    """
    wanted = count + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise MissingError(f"needs {wanted} open files, the limit is {hard}: raise `ulimit -Hn`")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def family(pid: int) -> list[int]:
    """Return a process and its children, those of children included."""
    found = [pid]
    for parent in found:
        try:
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        except OSError:
            continue
        found += map(int, text.split())
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that processes have used, in steps of 10 ms."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def rss_bytes(pids: Sequence[int]) -> int:
    """Return the resident memory of processes; what they share is counted for each."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def describe() -> str:
    """Name the machine in a line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    release = os.uname().release
    return f"{os.cpu_count()} x {model}, Linux {release}, load {os.getloadavg()[0]:.1f}"
