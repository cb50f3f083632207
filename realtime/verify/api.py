"""The HTTP API as a verification uses it: zones by pages, states and digests of one node."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import httpx
import msgspec

from channels.positions import Position
from realtime.client.messages import SnapshotBody
from realtime.service_api import PAGE_ROWS, ProblemAnswerError
from realtime.verify.view import VerifyError

MAX_TRIES: Final = 4
"""How often one request is sent while the node says that it can't be answered just now."""
PAUSE_S: Final = 0.5

Decoded = TypeVar("Decoded")


class ListedZone(msgspec.Struct, frozen=True):
    """A zone in a page of zones."""

    zone_id: str


class ZonePage(msgspec.Struct, frozen=True):
    """A page of zones."""

    zones: list[ListedZone]


class DigestBody(msgspec.Struct, frozen=True):
    """A digest and where it belongs."""

    epoch: str
    rev: int
    digest: str
    source: str

    @property
    def position(self) -> Position:
        """Where the zone was."""
        return Position(self.epoch, self.rev)


class TooLargeError(Exception):
    """A zone's state is more than the service sends in one piece."""


class VerifyApi:
    """What a verification asks of one node.

    Args:
        url: The node's address.
        client: Made for it, and closed by who made it.
    """

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def list_zones(self) -> list[str]:
        """Read the ids of all zones, page by page."""
        zone_ids: dict[str, None] = {}
        skip = 0
        while True:
            content = await self._get(f"/zones?skip={skip}&limit={PAGE_ROWS}")
            page = self._decode(content or b"{}", ZonePage).zones
            zone_ids.update((zone.zone_id, None) for zone in page)
            if len(page) < PAGE_ROWS:
                return list(zone_ids)
            skip += len(page)

    async def read_database(self, zone_id: str) -> SnapshotBody | None:
        """Read a zone's rows with the position; `None`: there is no such zone.

        Raises:
            TooLargeError: it is too large for one answer.
        """
        content = await self._get(f"/zones/{zone_id}/snapshot?source=database")
        return None if content is None else self._decode(content, SnapshotBody)

    async def read_digest(self, zone_id: str, minimum: Position) -> DigestBody | None:
        """Read the digest of the node's replica; `None`: it knows no such zone."""
        content = await self._get(f"/zones/{zone_id}/digest?min={minimum}")
        return None if content is None else self._decode(content, DigestBody)

    def _decode(self, content: bytes, kind: type[Decoded]) -> Decoded:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise VerifyError(f"what answers at {self.url} is no Zonecast: {error}") from error

    async def _get(self, path: str) -> bytes | None:
        """Return a body; `None`: 404 about a zone.

        Raises:
            VerifyError: there is no answer, or another one.
            TooLargeError: 413.
        """
        tries = 0
        while True:
            tries += 1
            try:
                response = await self._client.get(path)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                reason = str(error) or type(error).__name__
                raise VerifyError(f"cannot ask {self.url}: {reason}") from error
            if response.is_success:
                return response.content
            answer = ProblemAnswerError(f"cannot ask {self.url}: GET {path}", response)
            if answer.status == 404 and answer.kind == "not-found":
                return None
            if answer.status == 413:
                raise TooLargeError
            if not answer.is_temporary or tries == MAX_TRIES:
                raise VerifyError(str(answer))
            await asyncio.sleep(PAUSE_S)
