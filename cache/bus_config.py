"""The bounds of a bus, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from cache.envelope import EnvelopeLimits


def hash_tag(key_prefix: str) -> str:
    """Return what the keys begin with that a whole service shares: on a cluster, one slot.

    It is that of the users dict, to whose owner clients connect.
    Source: Redis Cluster specification, "hash tags".
    """
    return f"{{{key_prefix}:users}}"


@dataclass(frozen=True, slots=True)
class BusConfig:
    """The bounds of a bus.

    Attributes:
        subscribe_confirm_s: The longest that a subscriber waits for the confirmation.
        publish_timeout_s: The longest that a publication waits for Redis.
        heartbeat_interval_s: How often a node publishes to itself.
        deaf_after_s: Silence on the own channel for this long means that the bus is deaf.
        backoff_min_s: The wait before the first reconnection; it doubles with each failure.
        backoff_max_s: The longest wait between two attempts.
        max_channels_per_command: The most channels in one SUBSCRIBE.
        limits: What an envelope may hold.
    """

    subscribe_confirm_s: float = 0.25
    publish_timeout_s: float = 1.0
    heartbeat_interval_s: float = 1.0
    deaf_after_s: float = 3.0
    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0
    max_channels_per_command: int = 500
    limits: EnvelopeLimits = field(default_factory=EnvelopeLimits)


@dataclass(slots=True)
class BusCounters:
    """What a bus counted since its start.

    Attributes:
        messages: Changes handed to the listener.
        malformed: Messages that were dropped because they could not be read.
        newer: Messages of a newer release that this one can't read.
        published: Transactions that Redis took.
        publish_failures: Publications that failed or were refused.
        connects: Pub/sub connections made.
        losses: Pub/sub connections lost, and attempts that failed.
        gaps: Times that the listener was told of a gap.
    """

    messages: int = 0
    malformed: int = 0
    newer: int = 0
    published: int = 0
    publish_failures: int = 0
    connects: int = 0
    losses: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class BusKeys:
    """The names of channels on the server.

    Attributes:
        prefix: Begins the name of every channel of changes.
        own: Carries this node's heartbeats.
        all_nodes: Carries notices to all nodes.
    """

    prefix: bytes
    own: bytes
    all_nodes: bytes

    @classmethod
    def of_node(cls, key_prefix: str, node_id: str) -> BusKeys:
        """Name the channels of a node of the service with this prefix."""
        return cls(
            prefix=f"{key_prefix}:c:".encode(),
            own=f"{key_prefix}:node:{node_id}".encode(),
            all_nodes=f"{key_prefix}:all".encode(),
        )

    def of_channel(self, channel: str) -> bytes:
        """Return a channel's name on the server."""
        return self.prefix + channel.encode()
