"""What a service says to a client, made by hand."""

from __future__ import annotations

from typing import Any

import msgspec

from channels.digest import digest_users
from realtime.client.messages import Publication, ServerMessage, SnapshotBody
from realtime.client.picture import Picture
from realtime.client.updates import Update
from realtime.client.zone import WatchedZone

Json = dict[str, Any]


def a_user(user_id: int, name: str = "Ada", *, version: int = 1, zone_id: str = "A") -> Json:
    """Make a user."""
    shared = {"zone_id": zone_id, "attributes": {}, "version": version}
    return {"id": user_id, "global_id": user_id, "name": name, **shared}


def entered(user: Json) -> Json:
    """Make the event of somebody's coming."""
    return {"type": "entered", "user": user}


def left(user_id: int, version: int) -> Json:
    """Make the event of somebody's leaving."""
    return {"type": "left", "user_id": user_id, "version": version}


def a_state(zone_id: str, *users: Json, rev: int = 1, epoch: str = "e1") -> Json:
    """Make a zone's state, with its digest."""
    return {
        "channel": f"zone:{zone_id}",
        "epoch": epoch,
        "rev": rev,
        "zone": {"zone_id": zone_id, "name": "Hall", "attributes": {}},
        "users": list(users),
        "digest": digest_users((user["id"], user["version"]) for user in users),
    }


def a_body(zone_id: str, *users: Json, rev: int = 1, epoch: str = "e1") -> SnapshotBody:
    """Make a state as it is decoded."""
    return msgspec.convert(a_state(zone_id, *users, rev=rev, epoch=epoch), SnapshotBody)


def publication(rev: int, *events: Json, tx: str = "") -> Json:
    """Make what tells of a change."""
    return {"data": {"tx": tx or f"t{rev}", "events": list(events)}, "offset": rev, "time": 5}


def a_publication(rev: int, *events: Json) -> Publication:
    """Make a publication as it is decoded."""
    return msgspec.json.decode(msgspec.json.encode(publication(rev, *events)), type=Publication)


def messages(*lines: Json) -> list[ServerMessage]:
    """Make the lines of one message."""
    return [
        msgspec.json.decode(msgspec.json.encode(line), type=ServerMessage, strict=True)
        for line in lines
    ]


def push(zone_id: str, rev: int, *events: Json, tx: str = "") -> Json:
    """Make the push of a change."""
    return {"push": {"channel": f"zone:{zone_id}", "pub": publication(rev, *events, tx=tx)}}


class Conversation:
    """A picture on a connection, and the service on the other side.

    Attributes:
        picture: What the client shows.
        later: The zones that are to be asked for again after a while.
    """

    def __init__(self, *zone_ids: str) -> None:
        self.later: list[WatchedZone] = []
        self.picture = Picture(zone_ids, self.later.append)
        self._ids = 0

    def take_id(self) -> int:
        """Number a command."""
        self._ids += 1
        return self._ids

    def connect(self) -> list[Json]:
        """Connect, and return what the client then says."""
        self.picture.connected()
        return self.commands()

    def commands(self) -> list[Json]:
        """Return what the client has to say."""
        return [msgspec.json.decode(line) for line in self.picture.take_commands(self.take_id, 200)]

    def say(self, *lines: Json) -> list[Update]:
        """Say something to the client; return what it tells."""
        return self.picture.take(messages(*lines))

    def users(self) -> dict[str, list[int]]:
        """Return who is seen where."""
        return {zone_id: sorted(zone.users) for zone_id, zone in self.picture.zones.items()}


def state_reply(command: Json, state: Json) -> Json:
    """Answer a subscribe with a state."""
    reply = {"epoch": state["epoch"], "offset": state["rev"], "data": state}
    return {"id": command["id"], "subscribe": reply}


def resumed_reply(command: Json, rev: int, *publications: Json, epoch: str = "e1") -> Json:
    """Answer a subscribe with what was missed."""
    reply = {"epoch": epoch, "offset": rev, "recovered": True, "publications": list(publications)}
    return {"id": command["id"], "subscribe": reply}
