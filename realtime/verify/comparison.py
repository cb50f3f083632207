"""The verification: nodes, a client's view of each, and the database, at equal revisions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from channels.changes import ChannelState
from channels.digest import digest_state
from channels.events import User
from channels.positions import Position
from realtime.client import Token
from realtime.client.messages import SnapshotBody
from realtime.service_api import http_client
from realtime.verify.api import DigestBody, TooLargeError, VerifyApi
from realtime.verify.view import LIMIT_EXCEEDED, VerifyError, ViewClient, ZoneView, view_client

ZONES_AT_ONCE: Final = 8
MAX_TRIES: Final = 4
"""How often a zone is begun anew whose history was renewed, or that came or went, meanwhile."""
PAUSE_S: Final = 0.5
REACH_TIMEOUT_S: Final = 10.0
"""How long a client has to come to a position that the database has."""
USERS_LISTED: Final = 20

DATABASE: Final = "database"


@dataclass(frozen=True, slots=True)
class UserDifference:
    """A user who is not the same in two places; `None` where there is none."""

    user_id: int
    here: User | None
    there: User | None


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two places that should be equal and are not.

    Attributes:
        zone_id: Which zone.
        check: What found it: `digest` (users or versions), `contents` (the digests are equal,
            what they stand for is not), `replica` (a node's own digest is not that of what it
            told its client), `position` (they don't come to the same revision) or `existence`.
        here: One place.
        there: The other.
        position: Where both were; `None`: they weren't at one position.
        reason: In words.
        users: Who differs, the first of them.
        more: How many more differ.
    """

    zone_id: str
    check: str
    here: str
    there: str
    position: Position | None
    reason: str
    users: tuple[UserDifference, ...] = ()
    more: int = 0


@dataclass
class VerifyReport:
    """What a verification found.

    Attributes:
        equal: Zones that are the same everywhere.
        gone: Zones that were deleted meanwhile, everywhere.
        divergences: Where they part, by zone.
        unchecked: Zones that could not be compared, and why.
    """

    equal: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    divergences: dict[str, list[Divergence]] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many zones were looked at."""
        return len(self.equal) + len(self.gone) + len(self.divergences) + len(self.unchecked)


@dataclass(frozen=True, slots=True)
class _Place:
    """One node: its API, its client, and what they are called."""

    api: VerifyApi
    client: ViewClient

    @property
    def view(self) -> str:
        return f"client of {self.api.url}"

    @property
    def node(self) -> str:
        return f"node {self.api.url}"


class Verification:
    """Compares zones, several at once.

    Args:
        urls: The nodes' addresses; the first one is asked for the database's rows.
        zone_ids: Which zones; none: all.
        progressed: Told after each zone, with how many there are.
        token: What the nodes ask for.
    """

    def __init__(
        self,
        urls: Sequence[str],
        zone_ids: Sequence[str],
        progressed: Callable[[VerifyReport, int], None],
        token: Token | None = None,
    ) -> None:
        self._urls = urls
        self._token = token
        self._zone_ids = zone_ids
        self._progressed = progressed
        self._places: list[_Place] = []
        self._report = VerifyReport()

    async def run(self) -> VerifyReport:
        """Compare all of them.

        Raises:
            VerifyError: a node, or through it the database, can't be asked.
        """
        try:
            async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
                for url in self._urls:
                    asking = http_client(url, self._token)
                    api = VerifyApi(url, await stack.enter_async_context(asking))
                    viewing = view_client(url, self._token, tasks)
                    client = await stack.enter_async_context(viewing)
                    self._places.append(_Place(api, client))
                zone_ids = self._zone_ids or await self._places[0].api.list_zones()
                await self._compare_all(deque(zone_ids))
        except ExceptionGroup as group:
            raise _first_of(group) from None
        return self._report

    async def _compare_all(self, due: deque[str]) -> None:
        total = len(due)

        async def work() -> None:
            while due:
                await self._verify(due.popleft())
                self._progressed(self._report, total)

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(ZONES_AT_ONCE, total)):
                workers.create_task(work())

    async def _verify(self, zone_id: str) -> None:
        report = self._report
        minimum: Position | None = None
        found: list[Divergence] = []
        for attempt in range(MAX_TRIES):
            if attempt:
                await asyncio.sleep(PAUSE_S)
            try:
                outcome = await self._compare(zone_id, minimum)
            except TooLargeError:
                report.unchecked[zone_id] = "it is larger than the service sends in one piece"
                return
            if outcome is None:
                if zone_id in self._zone_ids:
                    report.unchecked[zone_id] = "there is no such zone"
                else:
                    report.gone.append(zone_id)
                return
            minimum, found = outcome
            if not any(divergence.check in {"position", "existence"} for divergence in found):
                break
        if found:
            report.divergences[zone_id] = found
        else:
            report.equal.append(zone_id)

    async def _compare(
        self, zone_id: str, minimum: Position | None
    ) -> tuple[Position | None, list[Divergence]] | None:
        """Compare one zone once.

        Returns:
            Where the database is (`None`: the zone is not there), and what differs; `None`:
            nobody knows of such a zone.
        """
        async with AsyncExitStack() as stack:
            views = [
                await stack.enter_async_context(place.client.viewing(zone_id, minimum))
                for place in self._places
            ]
            if any(view.refusal and view.refusal.code == LIMIT_EXCEEDED for view in views):
                raise TooLargeError
            # After the subscriptions: what the rows say is never before what clients were told.
            database = await self._places[0].api.read_database(zone_id)
            if database is None and all(view.refusal for view in views):
                return None
            found: list[Divergence] = []
            for place, view in zip(self._places, views, strict=True):
                found += await self._compare_place(place, view, database)
        position = None if database is None else Position(database.epoch, database.rev)
        return position, found

    async def _compare_place(
        self, place: _Place, view: ZoneView, database: SnapshotBody | None
    ) -> list[Divergence]:
        zone_id = view.zone_id
        if database is None and view.refusal:
            return []
        if database is None or view.refusal:
            reason = "there is such a zone in only one of them"
            return [Divergence(zone_id, "existence", place.view, DATABASE, None, reason)]
        position = Position(database.epoch, database.rev)
        digest = await place.api.read_digest(zone_id, position)
        reached = [position] if digest is None else [position, digest.position]
        if not await view.reach(reached, REACH_TIMEOUT_S):
            place.client.check_connected()
            return [_apart(zone_id, place.view, view.position, DATABASE, position)]
        told = view.state_at(position)
        if told is None:
            return [_apart(zone_id, place.view, view.position, DATABASE, position)]
        rows = {user.id: user for user in database.users}
        written = ChannelState(told.channel, position, database.zone, rows, {})
        found = _compare_states(zone_id, place.view, told, written)
        return found + _compare_replica(place, view, digest)


def _first_of(group: ExceptionGroup[Exception]) -> BaseException:
    """Return why a group failed: what could not be asked, before what followed from it."""
    known = group.subgroup(VerifyError)
    error: BaseException = known or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _apart(
    zone_id: str, here: str, at: Position | None, there: str, position: Position
) -> Divergence:
    reason = f"{here} is at {at or 'no position'}, {there} at {position}"
    return Divergence(zone_id, "position", here, there, None, reason)


def _compare_replica(place: _Place, view: ZoneView, digest: DigestBody | None) -> list[Divergence]:
    """Compare what a node says that it holds with what it told its client."""
    zone_id = view.zone_id
    if digest is None:
        reason = "there is such a zone in only one of them"
        return [Divergence(zone_id, "existence", place.node, place.view, None, reason)]
    told = view.state_at(digest.position)
    if told is None:
        at = view.position
        return [_apart(zone_id, place.view, at, place.node, digest.position)]
    own = digest_state(told)
    if own == digest.digest:
        return []
    reason = f"the node's digest is {digest.digest}, that of what it told {own}"
    return [Divergence(zone_id, "replica", place.node, place.view, digest.position, reason)]


def _compare_states(
    zone_id: str, here: str, told: ChannelState, written: ChannelState
) -> list[Divergence]:
    """Compare what a client was told with the rows, at one position."""
    differences = list(_differing_users(told.users, written.users))
    same_zone = told.zone == written.zone
    if not differences and same_zone:
        return []
    clauses = [] if same_zone else ["the zone itself differs"]
    if differences:
        count = len(differences)
        clauses.append("1 user differs" if count == 1 else f"{count} users differ")
    here_digest, there_digest = digest_state(told), digest_state(written)
    if here_digest == there_digest:
        check = "contents"
        clauses.append(f"though both digests are {here_digest}")
    else:
        check = "digest"
        clauses.append(f"the digests are {here_digest} and {there_digest}")
    reason = ", ".join(clauses)
    listed = tuple(differences[:USERS_LISTED])
    more = len(differences) - len(listed)
    return [Divergence(zone_id, check, here, DATABASE, written.position, reason, listed, more)]


def _differing_users(
    told: Mapping[int, User], written: Mapping[int, User]
) -> Sequence[UserDifference]:
    return [
        UserDifference(user_id, told.get(user_id), written.get(user_id))
        for user_id in sorted(told.keys() | written.keys())
        if told.get(user_id) != written.get(user_id)
    ]
