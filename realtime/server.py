"""The serving process: a bounded listening socket, and one worker or several behind it."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from realtime.app import build_app
from realtime.secret_files import SUFFIX
from realtime.settings import PREFIX, Settings
from realtime.websocket_server import Server, server_config
from realtime.workers import Workers

_STOP_SPARE_S: Final = 5.0


def listening_socket(settings: Settings) -> socket.socket:
    """Bind the address of the settings; accepted connections inherit the options.

    TCP_USER_TIMEOUT frees a connection whose peer takes nothing, or is gone without a word:
    without it a stream whose few bytes fit into the kernel's buffers would linger for as long
    as the peer likes.

    Raises:
        OSError: the address can't be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Twice as long as a node waits itself: then the client is told from a slow one.
            timeout_ms = max(1, round(2 * settings.slow_drain_timeout_s * 1000))
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.bind((settings.host, settings.port))
        listener.set_inheritable(True)
    except BaseException:
        listener.close()
        raise
    return listener


def serve(settings: Settings, listener: socket.socket) -> int:
    """Serve on a bound socket until a signal ends it; return the exit code.

    One worker runs here. Several are processes of their own, which read their settings from
    the environment, so whatever was given otherwise is put there first.
    """
    if settings.workers == 1:
        app = build_app(settings)
        server = Server(server_config(app, settings), app, settings)
        # What uvicorn does when the application does not start.
        with contextlib.suppress(SystemExit):
            server.run(sockets=[listener])
        return 0 if server.started and not server.has_failed else 1
    export(settings)
    # Its own bounds: the wait before the drain, the drain, and the lifespan's end.
    stop_max_s = settings.drain_delay_s + 2 * settings.shutdown_timeout_s + _STOP_SPARE_S
    workers = Workers(settings.workers, [listener], settings.worker_silence_max_s, stop_max_s)
    workers.run()
    return 1 if workers.has_failed else 0


def export(settings: Settings) -> None:
    """Put settings that differ from the defaults into the environment of workers."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            secret = getattr(value, "get_secret_value", None)
            # What its file holds is read, and both at once would be refused.
            os.environ.pop((PREFIX + name + SUFFIX).upper(), None)
            os.environ[PREFIX + name.upper()] = str(secret() if secret else value)
