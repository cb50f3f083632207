"""A zone's users as JSON, each encoded when it changes, so that a snapshot is a join of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final
from zlib import crc32

import msgspec

from channels.changes import ChannelState
from channels.events import User

PIECE_MAX_USERS: Final = 2_000
"""Users encoded before others have the loop, which takes some 5 ms."""

_encoder = msgspec.json.Encoder()


def _checksum(user: User) -> int:
    return crc32(f"{user.id}:{user.version}".encode("ascii"))


class EncodedUsers:
    """The JSON of each user by id, and the sum of which the digest is made.

    One change costs by the users that it touches, however many there are.
    """

    __slots__ = ("_by_id", "_sum")

    def __init__(self, users: Iterable[User] = ()) -> None:
        self._by_id: dict[int, bytes] = {}
        self._sum = 0
        for user in users:
            self.put(user, None)

    @classmethod
    async def in_pieces(cls, state: ChannelState) -> EncodedUsers:
        """Encode a state that nobody changes meanwhile, letting others have the loop between."""
        encoded = cls()
        for number, user in enumerate(state.users.values(), 1):
            encoded.put(user, None)
            if number % PIECE_MAX_USERS == 0:
                await asyncio.sleep(0)
        return encoded

    def put(self, user: User, before: User | None) -> None:
        """Take a user that came or changed; `before`: as it was here, if it was."""
        self._by_id[user.id] = _encoder.encode(user)
        self._sum += _checksum(user)
        if before is not None:
            self._sum -= _checksum(before)

    def drop(self, before: User) -> None:
        """Forget a user that left."""
        del self._by_id[before.id]
        self._sum -= _checksum(before)

    @property
    def digest(self) -> str:
        """The digest, as `channels.digest.digest_users` makes it from the users."""
        return f"{len(self._by_id)}-{self._sum % 2**32:08x}"

    def body(self, state: ChannelState) -> bytes:
        """Encode the state whose users these are, byte by byte as `encode_state` does."""
        head = _encoder.encode(
            {
                "channel": state.channel,
                "epoch": state.position.epoch,
                "rev": state.position.rev,
                "zone": state.zone,
            }
        )
        by_id = self._by_id
        users = b",".join(map(by_id.__getitem__, sorted(by_id)))
        return b'%b,"users":[%b],"digest":"%b"}' % (head[:-1], users, self.digest.encode())
