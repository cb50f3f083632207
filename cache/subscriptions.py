"""Subscriptions: which channels a node wants, what the server was told, what it confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cache.bus_config import BusKeys


@dataclass(frozen=True, slots=True)
class SubscriptionChange:
    """Commands to send next, as the server's channel names; either may be empty."""

    subscribe: tuple[bytes, ...]
    unsubscribe: tuple[bytes, ...]

    def __bool__(self) -> bool:
        return bool(self.subscribe or self.unsubscribe)


@dataclass(eq=False, slots=True)
class _Waiter:
    """Who waits for the confirmation of some channels, and of which still."""

    missing: set[bytes]
    all_confirmed: asyncio.Future[None]

    def confirmed(self, key: bytes) -> None:
        self.missing.discard(key)
        if not self.missing and not self.all_confirmed.done():
            self.all_confirmed.set_result(None)


class Subscriptions:
    """The bookkeeping of one pub/sub connection; does no I/O itself.

    Interest has set semantics: wanting twice is wanting once. The server answers each command
    in order, so a key is confirmed when the last command sent for it was a subscription and
    no answer for it is outstanding.
    """

    def __init__(self, keys: BusKeys) -> None:
        """Start without a connection; the keys that carry no changes are always wanted."""
        self._keys = keys
        self._control = frozenset((keys.own, keys.all_nodes))
        self._wanted: dict[bytes, str] = {}
        self._sent: set[bytes] = set()
        self._unanswered: dict[bytes, int] = {}
        # A dict keeps the order in which interest arose.
        self._changed: dict[bytes, None] = {}
        self._waiters: dict[bytes, list[_Waiter]] = {}
        self._regaining: set[bytes] = set()
        self._late: set[bytes] = set()
        self._regained = True
        self._missed = False
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._wanted)

    def connected(self) -> None:
        """Begin anew on a new connection: everything is to be sent again."""
        self._sent.clear()
        self._unanswered.clear()
        self._late.clear()
        keys = [*sorted(self._control), *self._wanted]
        self._regaining = set(keys)
        self._regained = False
        self._changed = dict.fromkeys(keys)
        self._news.set()

    def disconnected(self) -> None:
        """Forget what the lost connection had confirmed; interest stays."""
        self._sent.clear()
        self._unanswered.clear()

    def want(self, channel: str) -> None:
        """Register interest."""
        key = self._keys.of_channel(channel)
        self._wanted[key] = channel
        self._note(key)

    def unwant(self, channel: str) -> None:
        """Drop interest; who still waits for its confirmation waits in vain."""
        key = self._keys.of_channel(channel)
        if self._wanted.pop(key, None) is None:
            return
        self._late.discard(key)
        self._regaining.discard(key)
        self._note(key)

    def is_confirmed(self, channel: str) -> bool:
        """Tell whether what is published on the channel from now on will arrive."""
        return self._is_confirmed(self._keys.of_channel(channel))

    async def wait_confirmed(self, channels: Sequence[str], timeout_s: float) -> bool:
        """Wait until all are confirmed, at most `timeout_s`; returns whether they are.

        Cancel-safe. Without a timeout nothing is awaited.
        """
        keys = map(self._keys.of_channel, channels)
        missing = {key for key in keys if not self._is_confirmed(key)}
        if not missing or timeout_s <= 0:
            return not missing
        waiter = _Waiter(missing, asyncio.get_running_loop().create_future())
        for key in missing:
            self._waiters.setdefault(key, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.all_confirmed
        except TimeoutError:
            return False
        finally:
            for key in waiter.missing:
                waiters = self._waiters[key]
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[key]
        return True

    def note_unconfirmed(self, channel: str) -> None:
        """Remember that the caller of this interest went on without its confirmation."""
        if (key := self._keys.of_channel(channel)) in self._wanted and not self._is_confirmed(key):
            self._late.add(key)

    def channel_of(self, key: bytes) -> str | None:
        """Return the wanted channel with this name on the server."""
        return self._wanted.get(key)

    async def wait_change(self) -> None:
        """Wait until there may be something to send. Cancel-safe, unbounded."""
        await self._news.wait()

    def take_change(self, max_channels: int) -> SubscriptionChange:
        """Return what to send next and count it as sent; at most `max_channels` names."""
        subscribe: list[bytes] = []
        unsubscribe: list[bytes] = []
        while self._changed and len(subscribe) + len(unsubscribe) < max_channels:
            key = next(iter(self._changed))
            del self._changed[key]
            wanted = key in self._wanted or key in self._control
            if wanted == (key in self._sent):
                continue
            self._unanswered[key] = self._unanswered.get(key, 0) + 1
            if wanted:
                self._sent.add(key)
                subscribe.append(key)
            else:
                self._sent.discard(key)
                unsubscribe.append(key)
        if not self._changed:
            self._news.clear()
        return SubscriptionChange(tuple(subscribe), tuple(unsubscribe))

    def answered(self, key: bytes) -> None:
        """Take the server's answer to a command, in the order of the commands."""
        count = self._unanswered.pop(key, 0)
        if count == 0:
            # Nothing was asked: whoever made this subscription may have lost another.
            self._missed = True
        if count > 1:
            self._unanswered[key] = count - 1
        if not self._is_confirmed(key):
            return
        for waiter in self._waiters.pop(key, ()):
            waiter.confirmed(key)
        self._regaining.discard(key)
        if key in self._late:
            self._late.discard(key)
            self._missed = True

    def revoked(self, key: bytes) -> bool:
        """Note that the server ended a subscription that nobody asked it to end.

        It is sent again when the channel is wanted again. Returns whether that was so.
        """
        if key in self._unanswered or key not in self._sent:
            return False
        self._sent.discard(key)
        return True

    def take_gap(self) -> bool:
        """Tell, once, that messages of wanted channels may have been missed until now.

        That is so when everything wanted is confirmed again after a reconnect, and when a
        confirmation came after its caller had gone on without.
        """
        missed, self._missed = self._missed, False
        if not self._regained and not self._regaining:
            self._regained = True
            missed = True
        return missed

    def _is_confirmed(self, key: bytes) -> bool:
        return key in self._sent and key not in self._unanswered

    def _note(self, key: bytes) -> None:
        wanted = key in self._wanted
        if wanted == (key in self._sent):
            self._changed.pop(key, None)
            return
        self._changed[key] = None
        self._news.set()
