"""Published keys: a JWK set fetched from a URL, renewed, and kept on while the URL is down."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
import msgspec
import structlog

from channels.ports import UnavailableError
from realtime.auth.keys import Key, UnusableKeyError, keys_of_jwks
from realtime.logs import PacedLog

LOG_INTERVAL_S: Final = 10.0
RETRY_S: Final = 1.0
"""Pause after a failed fetch while there are no keys at all."""


@dataclass(frozen=True, slots=True)
class JwksConfig:
    """How keys are fetched.

    Attributes:
        url: Where they are.
        refresh_s: Pause between fetches.
        refetch_min_s: Least time between fetches because of tokens with unknown keys, which
            anybody can send.
        max_age_s: How long keys are good after the last fetch that worked.
        timeout_s: The bound of a fetch.
        max_bytes: How large the document may be.
    """

    url: str
    refresh_s: float
    refetch_min_s: float
    max_age_s: float
    timeout_s: float
    max_bytes: int


class FetchError(Exception):
    """The document can't be had; the message is one line for the log."""


class PublishedKeys:
    """The keys at a URL. `run` fetches; everything else only looks or waits.

    Args:
        config: How.
        client: Fetches; the caller closes it.
        monotonic_s: The clock of the bounds.
    """

    def __init__(
        self,
        config: JwksConfig,
        client: httpx.AsyncClient,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._client = client
        self._monotonic_s = monotonic_s
        self._keys: tuple[Key, ...] = ()
        self._fetched_s: float | None = None
        self._asked_s: float | None = None
        self._is_fetching = False
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._log = PacedLog(structlog.stdlib.get_logger("zonecast.auth"), LOG_INTERVAL_S)

    @property
    def keys(self) -> Sequence[Key]:
        """The keys that may be used now; none when they are too old."""
        return self._keys if self.is_ready else ()

    @property
    def is_ready(self) -> bool:
        """Whether keys were fetched, and not too long ago."""
        if self._fetched_s is None:
            return False
        return self._monotonic_s() - self._fetched_s <= self._config.max_age_s

    async def fetch(self, key_id: str) -> bool:
        """Have the keys fetched because of one that is not at hand, and wait for it.

        All who ask at the same time wait for the same fetch. Right after one none is made: the
        key is known not to be there. Cancel-safe.

        Args:
            key_id: The key; empty: any.

        Returns:
            Whether the key may be there now.

        Raises:
            UnavailableError: there are no keys, and they can't be fetched now.
        """
        if self._is_fetching or not self._was_just_asked() or not self.is_ready:
            if not self._is_fetching:
                self._wanted.set()
            await self._tried.wait()
        if not self.is_ready:
            raise UnavailableError("token keys", "the JWK set can't be fetched")
        return any(not key_id or key.key_id in {"", key_id} for key in self._keys)

    async def wait_tried(self) -> None:
        """Wait until a fetch has ended, well or not, if none has yet. Cancel-safe."""
        if self._asked_s is None:
            await self._tried.wait()

    async def run(self) -> None:
        """Fetch until cancelled: now, after each pause, and when a key is wanted."""
        while True:
            self._wanted.clear()
            self._is_fetching = True
            try:
                self._take(await self.read())
            except (FetchError, TimeoutError, httpx.HTTPError) as error:
                reason = str(error) or type(error).__name__
                kept = len(self.keys)
                self._log.warning("token keys cannot be fetched", reason=reason, kept=kept)
            finally:
                self._is_fetching = False
            self._asked_s = self._monotonic_s()
            # Whoever waits looks now; who asks from now on waits for the next fetch.
            self._tried.set()
            self._tried = asyncio.Event()
            await self._pause()

    async def _pause(self) -> None:
        if not self.is_ready:
            # Nobody can be let in: it is tried often, but not with each token that comes.
            await asyncio.sleep(min(RETRY_S, self._config.refresh_s))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.refresh_s):
                await self._wanted.wait()

    def _was_just_asked(self) -> bool:
        if self._asked_s is None:
            return False
        return self._monotonic_s() - self._asked_s < self._config.refetch_min_s

    def _take(self, keys: tuple[Key, ...]) -> None:
        known = {(key.key_id, key.algorithm) for key in self._keys}
        found = {(key.key_id, key.algorithm) for key in keys}
        if found != known:
            self._log.info("token keys", keys=sorted(f"{a} {i}".strip() for i, a in found))
        self._keys = keys
        self._fetched_s = self._monotonic_s()

    async def read(self) -> tuple[Key, ...]:
        """Fetch the keys as they are now, and keep nothing. Bounded, cancel-safe.

        Raises:
            FetchError: what was fetched holds no keys.
            TimeoutError: it takes too long.
            httpx.HTTPError: it can't be fetched.
        """
        async with asyncio.timeout(self._config.timeout_s):
            body = await self._download()
        try:
            keys = keys_of_jwks(msgspec.json.decode(body))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise FetchError("not JSON") from None
        except UnusableKeyError as error:
            raise FetchError(str(error)) from error
        if not keys:
            raise FetchError("no key in it can be used")
        return keys

    async def _download(self) -> bytes:
        async with self._client.stream("GET", self._config.url) as response:
            if response.status_code != 200:
                raise FetchError(f"HTTP {response.status_code}")
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > self._config.max_bytes:
                    raise FetchError(f"more than {self._config.max_bytes} bytes")
        return bytes(body)
