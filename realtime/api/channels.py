"""A zone's channel over HTTP: its state at one position, and its changes after another."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Final, Literal
from uuid import uuid4

import msgspec
from fastapi import Query, Request, Response

from channels.changes import Change, ChangePage
from channels.feed import UnknownChannelError
from channels.names import zone_channel
from channels.ports import UnavailableError
from channels.positions import MAX_REV, InvalidPositionError, Position, parse_minima
from realtime.api.admission import admit
from realtime.api.answers import (
    bounded,
    encode,
    json_response,
    raw_response,
    tagged_response,
)
from realtime.api.documents import (
    ChangesDocument,
    DigestDocument,
    SnapshotDocument,
    ZoneIdInPath,
)
from realtime.api.guard import principal_of
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import WaitingRoute, new_router
from realtime.connections import Card
from realtime.node import Node, node_of

router = new_router("channels", WaitingRoute)


MinimumInQuery = Annotated[
    str | None,
    Query(
        max_length=8_192,
        description="`epoch:rev`, or a line of a write's `Zonecast-Positions` as it is",
    ),
]
SourceInQuery = Annotated[
    Literal["database"] | None,
    Query(description="`database`: read its rows now, whatever this node holds"),
]


@router.get("/zones/{zone_id}/snapshot", response_model=SnapshotDocument)
async def read_snapshot(
    request: Request,
    zone_id: ZoneIdInPath,
    min: MinimumInQuery = None,  # noqa: A002 -- the wire's name.
    source: SourceInQuery = None,
) -> Response:
    """The zone at exactly one revision, at `min` or later where that exists.

    A `min` of another epoch, or one that the database never reached, waits for nothing: the
    answer is the present state, and its `epoch` and `rev` tell.
    """
    node = node_of(request)
    channel = zone_channel(zone_id)
    minimum = _parse(min, channel)
    pages = f"/users?zone_id={zone_id}"
    max_bytes = node.settings.snapshot_max_bytes
    if source is None:
        snapshot = await node.feed.snapshot(channel, minimum)
        body = bounded(snapshot.body, max_bytes, pages)
        return tagged_response(request, body, snapshot.position)
    # Later than any position heard of. No tag: rows written by hand don't move the position.
    snapshot = await node.feed.read_snapshot(channel)
    return raw_response(bounded(snapshot.body, max_bytes, pages))


@router.get("/zones/{zone_id}/digest", response_model=DigestDocument)
async def read_digest(
    request: Request,
    zone_id: ZoneIdInPath,
    min: MinimumInQuery = None,  # noqa: A002 -- the wire's name.
    source: SourceInQuery = None,
) -> Response:
    """The zone's digest, and the position that it belongs to, at `min` or later as a snapshot's.

    `source` tells where it comes from: this node's `replica`, where it has one, or the
    `database`, read in one snapshot with the position.
    """
    node = node_of(request)
    channel = zone_channel(zone_id)
    minimum = _parse(min, channel)
    if source is None:
        found = await node.feed.digest(channel, minimum)
    else:
        found = await node.feed.read_digest(channel)
    if not found.from_replica:
        return json_response(found.document())
    return tagged_response(request, encode(found.document()), found.position)


def _parse(text: str | None, channel: str) -> Position | None:
    try:
        return None if text is None else parse_minima(text, [channel]).get(channel)
    except InvalidPositionError as error:
        raise ProblemError(Kind.INVALID, str(error)) from error


@router.get("/zones/{zone_id}/changes", response_model=ChangesDocument)
async def read_changes(
    request: Request,
    zone_id: ZoneIdInPath,
    epoch: Annotated[str | None, Query(pattern="^[0-9a-f]{1,32}$")] = None,
    since_rev: Annotated[int, Query(ge=0, le=MAX_REV)] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    wait_s: Annotated[float, Query(ge=0, le=86_400, allow_inf_nan=False)] = 0,
) -> Response:
    """The changes after `since_rev`, up to `rev`; ask again from there, as long as there are any.

    With `wait_s` an answer without changes is held back until there are some, at most as long
    as the node allows. 410 when the changes are not all retained, when `epoch` is another than
    the channel's, and when `since_rev` is a revision that the database never reached: then
    take the snapshot. `limit` above the node's own bound is lowered to that.
    """
    node = node_of(request)
    channel = zone_channel(zone_id)
    limit = min(limit, node.settings.history_max_changes)
    page = _checked(await node.feed.history(channel, since_rev, limit), epoch, since_rev)
    if not page.changes and wait_s > 0:
        poll = LongPoll(node, request)
        await poll.wait(channel, page.head, min(wait_s, node.settings.long_poll_max_s))
        page = _checked(
            await node.feed.history(channel, since_rev, limit), page.head.epoch, since_rev
        )
    rev = page.changes[-1].rev if page.changes else since_rev
    return json_response(
        {
            "channel": channel,
            "epoch": page.head.epoch,
            "from_rev": since_rev,
            "rev": rev,
            "changes": [_document_of(change) for change in page.changes],
        }
    )


def _document_of(change: Change) -> dict[str, object]:
    return {
        "rev": change.rev,
        "tx": change.tx,
        "time": change.time_ms,
        "events": msgspec.Raw(change.events_json),
    }


def _checked(page: ChangePage, epoch: str | None, since_rev: int) -> ChangePage:
    if epoch is not None and epoch != page.head.epoch:
        reason = "epoch"
    elif since_rev > page.head.rev:
        reason = "future"
    elif since_rev < page.floor:
        reason = "compacted"
    else:
        return page
    fields = {
        "reason": reason,
        "epoch": page.head.epoch,
        "rev": page.head.rev,
        "floor": page.floor,
    }
    raise ProblemError(Kind.POSITION_GONE, "take the snapshot and go on from its position", fields)


class LongPoll:
    """A request that waits for changes. It counts as a connection, and a stop ends its wait."""

    queued_bytes: Final = 0
    congested: Final = False

    def __init__(self, node: Node, request: Request) -> None:
        self._node = node
        self._request = request
        self._bound = asyncio.timeout(None)

    def farewell(self) -> None:
        """End the wait, so that the request is answered with what there is."""
        if not self._bound.expired():
            self._bound.reschedule(asyncio.get_running_loop().time())

    def abort(self) -> None:
        """End the wait."""
        self.farewell()

    def dismiss(self, *, reconnect: bool) -> None:
        """End the wait."""
        self.farewell()

    async def wait(self, channel: str, position: Position, timeout_s: float) -> None:
        """Wait until the channel is past `position`, the time is over, or nobody waits any more.

        Raises:
            ProblemError: the node has as many connections as it takes.
        """
        connections = self._node.connections
        try:
            async with self._bound:
                if connections.closing:
                    return
                admit(self._node, self, self._card())
                try:
                    await self._wait_or_leave(channel, position, timeout_s)
                finally:
                    connections.remove(self)
        except TimeoutError:
            if not self._bound.expired():
                raise

    def _card(self) -> Card:
        address = self._request.client
        peer = f"{address.host}:{address.port}" if address else ""
        return Card(str(uuid4()), "long_poll", peer, principal_of(self._request).subject)

    async def _wait_or_leave(self, channel: str, position: Position, timeout_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(self._until_client_leaves())
            try:
                # Either is met again, and answered, by whoever reads after the wait.
                with contextlib.suppress(UnknownChannelError, UnavailableError):
                    await self._node.feed.wait_beyond(channel, position, timeout_s)
            finally:
                leaving.cancel()

    async def _until_client_leaves(self) -> None:
        # A body here is as pointless as it is allowed; one over the limit ends the wait.
        with contextlib.suppress(ProblemError):
            while (await self._request.receive())["type"] != "http.disconnect":
                pass
        self.farewell()
