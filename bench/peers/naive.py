"""The naive server: uvicorn as it comes, a set of clients, and a loop over them.

python naive.py PORT INPUT_PORT
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


class Broadcast:
    """Whoever is connected, and what goes to all of them."""

    def __init__(self, input_port: int) -> None:
        self._input_port = input_port
        self._sockets: set[WebSocket] = set()
        self._queues: set[asyncio.Queue[str]] = set()

    async def serve_socket(self, socket: WebSocket) -> None:
        """Keep a WebSocket until it is gone."""
        await socket.accept()
        self._sockets.add(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            self._sockets.discard(socket)

    async def serve_stream(self, _: Request) -> EventSourceResponse:
        """Stream events, from a queue for each client."""
        return EventSourceResponse(self._events())

    async def _events(self) -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield {"data": await queue.get()}
        finally:
            self._queues.discard(queue)

    async def _read(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        async for line in reader:
            text = line.decode().rstrip("\n")
            for socket in list(self._sockets):
                await socket.send_text(text)
            for queue in self._queues:
                queue.put_nowait(text)

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Take lines as long as the application runs."""
        async with await asyncio.start_server(self._read, "127.0.0.1", self._input_port):
            yield


def main() -> None:
    """Serve until killed."""
    port, input_port = map(int, sys.argv[1:3])
    broadcast = Broadcast(input_port)
    routes = [
        WebSocketRoute("/sub", broadcast.serve_socket),
        Route("/stream", broadcast.serve_stream),
    ]
    app = Starlette(routes=routes, lifespan=broadcast.lifespan)
    uvicorn.run(app, port=port, log_level="warning", backlog=4096)


if __name__ == "__main__":
    main()
