"""Net effects, without a database: which events, on which channel, in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channels import events
from channels.events import Changed, Entered, Event, Left, ZoneChanged, ZoneCreated, ZoneDeleted
from channels.names import DIRECTORY, zone_channel
from db.net_effect import (
    UserBefore,
    UserEffect,
    ZoneEffect,
    created_zones,
    events_by_channel,
)

ZONE_IDS = st.sampled_from(["A", "B", "C", None])


def user(user_id: int, zone_id: str | None, version: int) -> events.User:
    """Make a user as clients see it."""
    return events.User(user_id, user_id, "u", zone_id, {}, version)


@st.composite
def user_effects(draw: st.DrawFn) -> list[UserEffect]:
    """Draw what a transaction may have done to some users."""
    effects = []
    for user_id in draw(st.lists(st.integers(1, 50), unique=True)):
        before = draw(st.none() | st.builds(UserBefore, ZONE_IDS, st.integers(1, 9)))
        version = before.version if before is not None else 0
        moves = draw(st.booleans())
        after = user(user_id, draw(ZONE_IDS), version + 1) if moves else None
        effects.append(UserEffect(user_id, before, after, version))
    return effects


@given(user_effects())
def test_events_turn_what_was_into_what_is(effects: list[UserEffect]) -> None:
    """Applied to the users as they were, a channel's events make the users as they are."""
    told = events_by_channel(effects, [])
    for zone_id in ("A", "B", "C", None):
        channel = zone_channel(zone_id)
        state = {e.user_id: e.before.version for e in effects if e.before and _was_in(e, zone_id)}
        for event in told.get(channel, ()):
            _apply(state, event)
        assert state == {
            e.user_id: e.after.version for e in effects if e.after and _is_in(e, zone_id)
        }


def _was_in(effect: UserEffect, zone_id: str | None) -> bool:
    return effect.before is not None and effect.before.zone_id == zone_id


def _is_in(effect: UserEffect, zone_id: str | None) -> bool:
    return effect.after is not None and effect.after.zone_id == zone_id


def _apply(state: dict[int, int], event: Event) -> None:
    match event:
        case Entered(entered):
            assert entered.id not in state
            state[entered.id] = entered.version
        case Changed(changed):
            assert state[changed.id] < changed.version
            state[changed.id] = changed.version
        case Left(user_id, version):
            assert state.pop(user_id) < version


@given(user_effects())
def test_order_is_left_changed_entered_each_by_id(effects: list[UserEffect]) -> None:
    """The order of a channel's events doesn't depend on the order of the writes."""
    told = events_by_channel(effects, [])
    assert told == events_by_channel(list(reversed(effects)), [])
    for of_channel in told.values():
        keys = [_place(event) for event in of_channel]
        assert keys == sorted(keys)
        assert keys


def _place(event: Event) -> tuple[int, int]:
    match event:
        case Left(user_id):
            return 0, user_id
        case Changed(changed):
            return 1, changed.id
        case Entered(entered):
            return 2, entered.id
    raise AssertionError(event)


def test_untouched_user_is_not_told() -> None:
    """The same zone at the same version is nothing."""
    assert events_by_channel([UserEffect(1, UserBefore("A", 3), user(1, "A", 3))], []) == {}


def test_new_and_gone_zones() -> None:
    """The directory hears of all; a zone's own channel not of its beginning, last of its end."""
    new, old = events.Zone("N", "n", {}), events.Zone("O", "o", {})
    zones = [
        ZoneEffect("O", existed=True, after=old),
        ZoneEffect("N", existed=False, after=new),
        ZoneEffect("G", existed=True, after=None),
        ZoneEffect("T", existed=False, after=None),
    ]
    users = [UserEffect(1, UserBefore("G", 1), user(1, "N", 2))]
    assert events_by_channel(users, zones) == {
        DIRECTORY: (ZoneCreated(new), ZoneChanged(old), ZoneDeleted("G")),
        "zone:O": (ZoneChanged(old),),
        "zone:N": (Entered(user(1, "N", 2)),),
        "zone:G": (Left(1, 2), ZoneDeleted("G")),
    }
    assert created_zones(zones) == ["N"]
