"""The map of a Redis Cluster: which master owns which slot, and the names that fall into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from redis.crc import key_slot

from cache.bus_config import BusKeys, hash_tag
from cache.redis_url import ServerAddress

SLOTS: Final = 16_384

slot_of = key_slot
"""The slot of a key or a sharded channel; only what stands in braces counts."""


class MalformedMapError(ValueError):
    """A server's answer that is no map of slots."""


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Who owns what, as one server told.

    Attributes:
        owners: By slot; slots that nobody serves are missing.
    """

    owners: Mapping[int, ServerAddress] = field(default_factory=dict, repr=False)

    @classmethod
    def of_reply(cls, reply: object, asked: ServerAddress) -> ClusterMap:
        """Read the answer to `CLUSTER SLOTS`.

        Args:
            reply: As it came.
            asked: Who answered: a server that doesn't know its own name leaves it out.

        Raises:
            MalformedMapError: it is anything else.
        """
        owners: dict[int, ServerAddress] = {}
        try:
            for first, last, master, *_replicas in _rows(reply):
                host, port = bytes(master[0] or b"").decode(), int(master[1])
                address = (asked[0] if host in {"", "?"} else host, port)
                owners.update(dict.fromkeys(range(int(first), int(last) + 1), address))
        except (TypeError, ValueError, IndexError):
            raise MalformedMapError("no map of slots") from None
        if owners and not (min(owners) >= 0 and max(owners) < SLOTS):
            raise MalformedMapError("a map of slots that don't exist")
        return cls(owners)

    @property
    def masters(self) -> frozenset[ServerAddress]:
        """All masters that own a slot."""
        return frozenset(self.owners.values())

    @property
    def is_complete(self) -> bool:
        """Whether every slot is served."""
        return len(self.owners) == SLOTS

    def owner_of(self, key: bytes) -> ServerAddress | None:
        """Return the master of a key or channel."""
        return self.owners.get(slot_of(key))


def _rows(reply: object) -> Iterable[Any]:
    if not isinstance(reply, list):
        raise TypeError
    return reply


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """The names of the channels of one shard, and of the one that all nodes listen to.

    A node has a heartbeat on each master, so it needs a name in one of that master's slots.
    """

    key_prefix: str
    node_id: str

    @property
    def notice_channel(self) -> str:
        """The notices' channel: its braces, which no channel of changes has, put it

        beside the users dict, so that the fence is raised and told of in one pipeline.
        """
        return notice_channel(self.key_prefix)

    def of_shard(self, owned: ClusterMap, master: ServerAddress) -> BusKeys:
        """Name the channels on a master that owns a slot; some milliseconds at most."""
        plain = BusKeys.of_node(self.key_prefix, self.node_id)
        for number in count():
            own = plain.own + b":%d" % number
            if owned.owner_of(own) == master:
                return BusKeys(prefix=plain.prefix, own=own, all_nodes=own)
        raise AssertionError


def notice_channel(key_prefix: str) -> str:
    """Name the channel that carries notices to all nodes of a service, on a cluster."""
    return hash_tag(key_prefix)


def notice_key(key_prefix: str) -> bytes:
    """Return its name on the server."""
    return BusKeys.of_node(key_prefix, "").of_channel(notice_channel(key_prefix))
