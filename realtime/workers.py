"""Worker processes behind one listening socket, each a node of its own."""

from __future__ import annotations

import math
import signal
import socket
import time
from types import FrameType
from typing import Final, cast

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from realtime.app import build_app
from realtime.logs import configure_logging
from realtime.settings import Settings
from realtime.websocket_server import Server, server_config

_POLL_S: Final = 0.1
_START_TIMES: Final = 4
"""So much longer may a worker be silent that has yet to answer for the first time."""


class WorkerServer(Server):
    """A server that is told to stop by its supervisor alone."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on SIGTERM only.

        Ctrl-C reaches all processes of a terminal: with the supervisor's SIGTERM it would count
        as a second signal, and nobody could say goodbye.
        """
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)


class Worker(Process):
    """A process whose server says goodbye to its clients, which uvicorn's own doesn't."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._asked_s: float | None = None
        self._has_answered = False

    def is_alive(self, timeout: float = 5) -> bool:
        """Tell whether it runs, and answered within so many seconds when it was last asked.

        A new one has its imports to do first, seconds of CPU: killed for them, and made again, it
        would never come up on a machine that is busy.

        Never waits, as uvicorn's own does: a supervisor that waits for one that is still
        importing, or hangs, hears no signal to stop meanwhile.
        """
        if not self.process.is_alive():
            return False
        try:
            if self._asked_s is None:
                self._asked_s = time.monotonic()
                self.parent_conn.send(b"ping")
            if self.parent_conn.poll():
                self.parent_conn.recv()
                self._asked_s = None
                self._has_answered = True
        except (OSError, EOFError):
            return False
        if not self._has_answered:
            timeout *= _START_TIMES
        return self._asked_s is None or time.monotonic() - self._asked_s < timeout

    @property
    def server(self) -> uvicorn.Server:
        """Build the server, in the worker, from the environment alone."""
        if self._server is None:
            settings = Settings()
            configure_logging(settings.log_level, settings.log_format)
            app = build_app(settings)
            self._server = WorkerServer(server_config(app, settings), app, settings)
        return self._server


class Workers(Multiprocess):
    """uvicorn's supervisor of `count` workers: one that dies is replaced.

    Args:
        count: How many.
        listeners: What they accept from.
        silence_max_s: A worker that doesn't answer for so long hangs; a new one has four times as
            long.
        stop_max_s: A worker that was told to stop so long ago, and is still there, is killed.

    Attributes:
        has_failed: Whether it stopped because a worker could not start.
    """

    def __init__(
        self, count: int, listeners: list[socket.socket], silence_max_s: float, stop_max_s: float
    ) -> None:
        config = uvicorn.Config("realtime.app:build_app", log_config=None)
        config.workers = count
        config.timeout_worker_healthcheck = math.ceil(silence_max_s)
        super().__init__(config, listeners)
        self.has_failed = False
        self._stop_max_s = stop_max_s
        self._log = structlog.get_logger()

    def _start_one(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def init_processes(self) -> None:
        """Start all workers."""
        self.processes += [self._start_one() for _ in range(self.processes_num)]

    def terminate_all(self) -> None:
        """Tell all workers to stop; with the last of them the listening sockets are gone."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Wait until all workers have ended; pass on a further signal, which ends them at once."""
        until_s = time.monotonic() + self._stop_max_s
        for worker in self.processes:
            while worker.process.is_alive():
                worker.process.join(_POLL_S)
                if time.monotonic() > until_s and worker.process.is_alive():
                    self._log.error("worker did not stop, killed", pid=worker.pid)
                    worker.kill()
                if self.signal_queue:
                    self.signal_queue.clear()
                    self.terminate_all()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that died or hang; stop when one can't even start."""
        for index, worker in enumerate(self.processes):
            if self.should_exit.is_set() or worker.is_alive(
                timeout=self.config.timeout_worker_healthcheck
            ):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                self._log.error("worker failed to start", pid=worker.pid)
                self.has_failed = True
                self.should_exit.set()
                return
            self._log.warning("worker died", pid=worker.pid, exitcode=worker.exitcode)
            self.processes[index] = cast("Process", self._start_one())
