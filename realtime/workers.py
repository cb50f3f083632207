"""Worker processes behind one listening socket, each a node of its own."""

from __future__ import annotations

import socket
from typing import cast

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from realtime.app import build_app
from realtime.logs import configure_logging
from realtime.settings import Settings
from realtime.websocket_server import Server, server_config


class Worker(Process):
    """A process whose server says goodbye to its clients, which uvicorn's own doesn't."""

    @property
    def server(self) -> uvicorn.Server:
        """Build the server, in the worker, from the environment alone."""
        if self._server is None:
            settings = Settings()
            configure_logging(settings.log_level, settings.log_format)
            app = build_app(settings)
            self._server = Server(server_config(app, settings), app, settings)
        return self._server


class Workers(Multiprocess):
    """uvicorn's supervisor of `count` workers: one that dies is replaced.

    Attributes:
        has_failed: Whether it stopped because a worker could not start.
    """

    def __init__(self, count: int, listeners: list[socket.socket]) -> None:
        config = uvicorn.Config("realtime.app:build_app", log_config=None)
        config.workers = count
        super().__init__(config, listeners)
        self.has_failed = False
        self._log = structlog.get_logger()

    def _start_one(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def init_processes(self) -> None:
        """Start all workers."""
        self.processes += [self._start_one() for _ in range(self.processes_num)]

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
