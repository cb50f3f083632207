"""`websockets.broadcast`: every line that comes in goes to every client, in one call.

python broadcast.py PORT INPUT_PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def _broadcast(port: int, input_port: int) -> None:
    clients: set[ServerConnection] = set()

    async def keep(client: ServerConnection) -> None:
        clients.add(client)
        try:
            await client.wait_closed()
        finally:
            clients.discard(client)

    async def read(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        async for line in reader:
            broadcast(clients, line.decode().rstrip("\n"))

    async with (
        await asyncio.start_server(read, "127.0.0.1", input_port),
        serve(keep, "127.0.0.1", port, compression=None, backlog=4096) as server,
    ):
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_broadcast(*map(int, sys.argv[1:3])))
