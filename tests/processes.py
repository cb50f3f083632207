"""Real server processes for tests: where they live, how they start, and that none outlives us."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.01
STALE_AFTER_S = 60.0
SCRATCH_MIN_FREE_BYTES = 1 << 30

# The program becomes the server (exec). Rights are dropped first: changing the account clears
# the death signal, which ends the server when the test run is killed. (No preexec_fn: from
# Python 3.12 it warns in processes with threads.)
_LAUNCHER = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
if uid:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, death_signal)
if os.getppid() != parent:
    sys.exit("the test run is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""


class ServerStartError(Exception):
    """A server did not answer in time; carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account a server runs under when the tests run as root."""

    uid: int
    gid: int

    @classmethod
    def unprivileged(cls) -> Account | None:
        """Return the account `nobody` for root, else `None`: stay who we are."""
        if os.geteuid() != 0:
            return None
        entry = pwd.getpwnam("nobody")
        return cls(entry.pw_uid, entry.pw_gid)


class Scratch:
    """A folder for one test run, in memory where there is room, removed at the end.

    A run that was killed leaves its folder; the next run sweeps it. A lock, which the kernel
    drops with the process, tells a folder in use from a stale one.
    """

    PREFIX = "zonecast-test-"

    def __init__(self) -> None:
        parent = _roomy_folder()
        self.sweep(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=self.PREFIX, dir=parent))
        # Servers run under another account and only pass through.
        self.folder.chmod(0o711)
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def sweep(cls, parent: Path) -> list[Path]:
        """Remove the folders of runs that are gone; returns them."""
        removed = []
        for folder in parent.glob(f"{cls.PREFIX}*"):
            with contextlib.suppress(OSError):
                lock_path = folder / "lock"
                if not lock_path.exists():
                    # It may be in the making.
                    stale = time.time() - folder.stat().st_mtime > STALE_AFTER_S
                else:
                    with lock_path.open("r+") as lock:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    stale = True
                if stale:
                    shutil.rmtree(folder)
                    removed.append(folder)
        return removed

    def new_folder(self, name: str, account: Account | None = None) -> Path:
        """Make a folder for one server, owned by the account it runs under."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        return folder

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _roomy_folder() -> Path:
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes the folder inside, private to us.
    if (
        memory.is_dir()
        and os.access(memory, os.W_OK)
        and shutil.disk_usage(memory).free >= SCRATCH_MIN_FREE_BYTES
    ):
        return memory
    return Path(tempfile.gettempdir())


def free_port() -> int:
    """Return a loopback port that is free now and that no outgoing connection gets by itself.

    Below the kernel's range for outgoing connections: a client that tries again and again to
    reach a stopped server inside that range would one day connect to itself.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)  # noqa: S311 - a port is no secret.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = "no free port on the loopback interface"
    raise OSError(msg)


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    folder: Path,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that ends with this process, in a session of its own.

    A session of its own keeps Ctrl-C in the terminal from stopping it before the tests do.
    Call it on the main thread: the kernel ties the death signal to the starting thread.

    Args:
        command: The program's full path, then its arguments.
        log: Where its output is appended.
        folder: Its working directory.
        account: Whom it runs under; `None` keeps the account.
        death_signal: What the kernel sends it when this process dies.
        env: Its environment; `None` passes ours on.
    """
    owner = (account.uid, account.gid) if account else (0, 0)
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    numbers = [str(number) for number in (os.getpid(), int(death_signal), *owner)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *numbers, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=env,
            start_new_session=True,
        )


async def wait_exit(process: subprocess.Popen[bytes], timeout_s: float = STOP_TIMEOUT_S) -> int:
    """Wait until a process has ended; returns its exit code. Cancel-safe."""
    async with asyncio.timeout(timeout_s):
        # Bounded by the timeout above. The loop's child watchers know only their own children.
        while (code := process.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)
    return code


class ServerProcess(ABC):
    """A server on a loopback port that stays the same over restarts.

    Attributes:
        port: The TCP port on 127.0.0.1.
        folder: Its data and its log.
    """

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL
    start_timeout_s = START_TIMEOUT_S

    def __init__(self, folder: Path, account: Account | None = None) -> None:
        self.port = free_port()
        self.folder = folder
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program's full path and its arguments."""

    @abstractmethod
    async def answers(self) -> bool:
        """Tell whether the server serves now; never raises for one that doesn't."""

    @property
    def running(self) -> bool:
        """Whether the process lives, stopped by a signal or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; raises `RuntimeError` when it was never started."""
        if self._process is None:
            msg = "the server was never started"
            raise RuntimeError(msg)
        return self._process.pid

    async def start(self) -> None:
        """Start the server and wait until it serves; nothing to do when it runs.

        Raises:
            ServerStartError: It ended, or did not answer within `start_timeout_s`.
        """
        if self.running:
            return
        process = spawn(
            self.command(),
            log=self.folder / "server.log",
            folder=self.folder,
            account=self._account,
            death_signal=self.death_signal,
            env=os.environ | {"LC_ALL": "C", "TZ": "UTC"},
        )
        self._process = process
        try:
            async with asyncio.timeout(self.start_timeout_s):
                # A starting server announces itself in no way but by answering.
                while process.poll() is None and not await self.answers():  # noqa: ASYNC110
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            await self.kill()
        if process.poll() is not None:
            raise ServerStartError(f"{type(self).__name__} did not start: {self.log_tail()}")

    async def stop(self) -> None:
        """End the server in order, by force after `STOP_TIMEOUT_S`; also when it is stopped."""
        if self._process is None or not self.running:
            return
        self._signal(signal.SIGCONT)
        self._process.send_signal(self.stop_signal)
        try:
            await wait_exit(self._process)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End the server at once (SIGKILL), with all its children."""
        if self._process is None or not self.running:
            return
        pids = self._family()
        self._signal(signal.SIGKILL)
        await wait_exit(self._process)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            # Children of a dead server are nobody's whom we could wait for.
            while any(_is_alive(pid) for pid in pids):  # noqa: ASYNC110
                await asyncio.sleep(POLL_INTERVAL_S)

    def sigstop(self) -> None:
        """Freeze the server and its children: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def log_tail(self, max_bytes: int = 1000) -> str:
        """Return the end of the server's log."""
        log = self.folder / "server.log"
        return log.read_bytes()[-max_bytes:].decode(errors="replace").strip()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _family(self) -> list[int]:
        # A process group would not do: PostgreSQL's children make sessions of their own.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with contextlib.suppress(OSError):
            return [self.pid, *(int(pid) for pid in children.read_text().split())]
        return [self.pid]


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in {"Z", "X"}
    return False


BLOCKING_ON_PURPOSE: Mapping[str, Iterable[str]] = {
    "tests/processes.py": {"spawn", "log_tail", "_family", "_is_alive"}
}
"""Files and functions that may block the event loop: a start, or a look at a process, is short."""
