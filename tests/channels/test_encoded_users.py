"""The encoding that follows the users one by one is the one that is made of all of them."""

from __future__ import annotations

import random

from channels.changes import Change, ChannelState
from channels.digest import digest_state
from channels.encoded_users import EncodedUsers
from channels.events import Changed, Entered, Event, Left, User, Zone
from channels.positions import Position
from channels.replica import Replica, encode_state
from tests.channels.virtual_time import run_in_virtual_time


def _user(user_id: int, version: int) -> User:
    return User(user_id, user_id + 1_000, f'"{user_id}', "A", {"é": [version]}, version)


def test_the_encoding_and_digest_follow_random_changes() -> None:
    """Also users that change before they entered, and leave without having been there."""
    chance = random.Random(7)  # noqa: S311 - the same each time.
    zone = Zone("A", "Attic", {})
    users = {n: _user(n, 1) for n in range(5)}
    replica = Replica(
        ChannelState("zone:A", Position("e", 0), zone, users, {}), recent_max_changes=4
    )
    for rev in range(1, 300):
        user = _user(chance.randrange(20), rev)
        events: list[Event] = [Entered(user), Changed(user), Left(user.id, rev)]
        event = chance.choice(events)
        replica.apply(Change.of_events("zone:A", Position("e", rev), "t", 0, (event,)))
        assert replica.snapshot() == encode_state(replica.state())
        assert replica.digest() == digest_state(replica.state())


def test_what_is_encoded_in_pieces_is_whole() -> None:
    """More users than a piece."""
    users = {n: _user(n, 1) for n in range(5_001)}
    state = ChannelState("zone:A", Position("e", 3), None, users, {})
    encoded = run_in_virtual_time(EncodedUsers.in_pieces(state))
    assert encoded.body(state) == encode_state(state)
