"""The shortest way from Redis to a browser: what is published goes to each WebSocket as it is.

python forwarder.py PORT REDIS_URL CHANNEL
"""

from __future__ import annotations

import sys

import redis.asyncio
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def _forward(port: int, url: str, channel: str) -> None:
    clients: set[ServerConnection] = set()

    async def keep(client: ServerConnection) -> None:
        clients.add(client)
        try:
            await client.wait_closed()
        finally:
            clients.discard(client)

    async with redis.asyncio.from_url(url) as client, client.pubsub() as messages:
        await messages.subscribe(channel)
        async with serve(keep, "127.0.0.1", port, compression=None):
            async for message in messages.listen():
                if message["type"] == "message":
                    broadcast(clients, message["data"].decode())


if __name__ == "__main__":
    uvloop.run(_forward(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
