"""The HTTP API as commands use it: every call is tried again, boundedly, and safe to repeat."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from channels.names import zone_id_of
from channels.positions import InvalidPositionError, Position
from realtime.bearer import auth_of
from realtime.client import Token
from realtime.client.address import is_loopback
from realtime.trace import Reading

PAGE_ROWS: Final = 1_000
REQUEST_TIMEOUT_S: Final = 40.0
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
_TEMPORARY: Final = frozenset({408, 425, 429, 502, 503, 504})


class ServiceError(Exception):
    """The command cannot go on; one line."""


class ProblemAnswerError(ServiceError):
    """The service answered with a problem.

    Attributes:
        status: The HTTP status.
        kind: The problem's type, `/problems/<kind>`, or what its status says.
    """

    def __init__(self, what: str, response: httpx.Response) -> None:
        try:
            body = msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError:
            body = {}
        detail = body.get("detail") or body.get("title") or response.reason_phrase
        super().__init__(f"{what}: {response.status_code} {detail}")
        self.status = response.status_code
        self.kind = str(body.get("type", "")).removeprefix("/problems/")

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TEMPORARY or (self.status == 409 and self.kind == "conflict")


def http_client(url: str, token: Token | None = None) -> httpx.AsyncClient:
    """Build a client of a service; proxies of the environment are not for this machine."""
    return httpx.AsyncClient(
        base_url=url,
        timeout=REQUEST_TIMEOUT_S,
        trust_env=not is_loopback(url),
        auth=auth_of(token),
    )


class ServiceApi:
    """What commands ask of the service.

    Args:
        url: The service's address, `http://host:port`.
        give_up_after_s: How long one call is tried again.
        token: What the service asks for.
    """

    def __init__(self, url: str, give_up_after_s: float, token: Token | None = None) -> None:
        self._give_up_after_s = give_up_after_s
        self._url = url
        self._client = http_client(url, token)
        self._is_reached = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def list_users(self, skip: int) -> list[dict[str, Any]]:
        """Read a page of users, by id."""
        response = await self.call("GET", f"/users?skip={skip}&limit={PAGE_ROWS}")
        users: list[dict[str, Any]] = response.json()["users"]
        return users

    async def make_zone(self, zone_id: str, name: str | None = None) -> None:
        """Make a zone, named by its id or otherwise; one that is there is fine."""
        try:
            await self.call("POST", "/zones", {"zone_id": zone_id, "name": name or zone_id})
        except ProblemAnswerError as answer:
            if answer.kind != "duplicate":
                raise

    async def make_users(self, global_ids: Mapping[str, int]) -> list[dict[str, Any]] | None:
        """Make users for badges; `None`: one of the ids is taken, and nobody was made."""
        users = [
            {"global_id": global_id, "name": badge, "attributes": {"badge": badge}}
            for badge, global_id in global_ids.items()
        ]
        try:
            response = await self.call("POST", "/users/bulk", {"users": users})
        except ProblemAnswerError as answer:
            if answer.status == 409:
                return None
            raise
        made: list[dict[str, Any]] = response.json()["users"]
        return made

    async def transfer(
        self, readings: Sequence[Reading], user_ids: Mapping[str, int]
    ) -> dict[str, Position]:
        """Move users in one transaction; return where that took the zones, by zone id.

        Whoever repeats it ends in the same zones.
        """
        rows = [
            {"user_id": user_ids[reading.badge], "zone_id": reading.zone_id} for reading in readings
        ]
        response = await self.call("POST", "/transfers", {"transfers": rows})
        return _read_positions(response.headers.get("Zonecast-Positions", ""))

    async def read_digest(self, zone_id: str) -> tuple[Position, str]:
        """Read where a zone is in the database, and its digest there."""
        response = await self.call("GET", f"/zones/{zone_id}/snapshot")
        body = response.json()
        return Position(body["epoch"], body["rev"]), body["digest"]

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        """Send a request until it is answered, at most `give_up_after_s`.

        Raises:
            ServiceError: there was no answer in time, or nobody ever answered at this address.
            ProblemAnswerError: the answer is a problem that repeating won't change.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._give_up_after_s
        backoff_s = BACKOFF_MIN_S
        what = f"{method} {path.partition('?')[0]}"
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        while True:
            try:
                response = await self._client.request(
                    method, path, content=content, headers=headers
                )
                self._is_reached = True
                if response.is_success:
                    return response
                answer = ProblemAnswerError(what, response)
                if not answer.is_temporary or loop.time() + backoff_s > until_s:
                    raise answer
            except httpx.TransportError as error:
                if not self._is_reached:
                    raise ServiceError(f"nobody answers at {self._url}: {error}") from error
                if loop.time() + backoff_s > until_s:
                    raise ServiceError(f"{what}: {str(error) or type(error).__name__}") from error
            except httpx.InvalidURL as error:
                raise ServiceError(f"not an address: {self._url}: {error}") from error
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1))  # noqa: S311 - no secret.
            backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)


def _read_positions(header: str) -> dict[str, Position]:
    positions: dict[str, Position] = {}
    for item in header.split(","):
        channel, _, position = item.strip().partition("=")
        zone_id = zone_id_of(channel)
        try:
            if zone_id is not None:
                positions[zone_id] = Position.parse(position)
        except InvalidPositionError:
            continue
    return positions
