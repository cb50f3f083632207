"""What a transaction did, all in all: from states before and after to events by channel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from channels import events
from channels.names import DIRECTORY, zone_channel


class UserBefore(msgspec.Struct, frozen=True, gc=False):
    """Where a user was before a write, and at which version."""

    zone_id: str | None
    version: int


class UserEffect(msgspec.Struct, frozen=True, gc=False):
    """What a transaction did to a user.

    Attributes:
        user_id: The user.
        before: As it was before the transaction; `None` when it is new.
        after: As it is now; `None` when it is gone.
        last_version: When it is gone, the version at which it was deleted, else unused.
    """

    user_id: int
    before: UserBefore | None
    after: events.User | None
    last_version: int = 0


@dataclass(frozen=True, slots=True)
class ZoneEffect:
    """What a transaction did to a zone.

    Attributes:
        zone_id: The zone.
        existed: Whether it was there before the transaction.
        after: As it is now; `None` when it is gone.
    """

    zone_id: str
    existed: bool
    after: events.Zone | None


def created_zones(zones: Iterable[ZoneEffect]) -> list[str]:
    """List the zones that are new, ascending: their channels begin a new history."""
    return sorted(zone.zone_id for zone in zones if zone.after is not None and not zone.existed)


def events_by_channel(
    users: Iterable[UserEffect], zones: Iterable[ZoneEffect]
) -> dict[str, tuple[events.Event, ...]]:
    """Tell what each channel's watchers have to hear, in the order in which it applies.

    A zone's own news come first, then who left, changed and entered, each by user id; that
    the zone is gone comes last. Channels of which nothing is to be told are missing.
    """
    ordered_zones = sorted(zones, key=lambda zone: zone.zone_id)
    ordered_users = sorted(users, key=lambda user: user.user_id)
    told: dict[str, list[events.Event]] = defaultdict(list)
    for zone in ordered_zones:
        _tell_zone(told, zone)
    for user in ordered_users:
        _tell_left(told, user)
    for user in ordered_users:
        _tell_changed(told, user)
    for user in ordered_users:
        _tell_entered(told, user)
    for zone in ordered_zones:
        if zone.existed and zone.after is None:
            for channel in (DIRECTORY, zone_channel(zone.zone_id)):
                told[channel].append(events.ZoneDeleted(zone.zone_id))
    return {channel: tuple(told[channel]) for channel in sorted(told)}


def _tell_zone(told: dict[str, list[events.Event]], zone: ZoneEffect) -> None:
    if zone.after is None:
        return
    if not zone.existed:
        told[DIRECTORY].append(events.ZoneCreated(zone.after))
        return
    for channel in (DIRECTORY, zone_channel(zone.zone_id)):
        told[channel].append(events.ZoneChanged(zone.after))


def _tell_left(told: dict[str, list[events.Event]], user: UserEffect) -> None:
    if user.before is None:
        return
    if user.after is None:
        version = user.last_version + 1
    elif user.after.zone_id != user.before.zone_id:
        version = user.after.version
    else:
        return
    told[zone_channel(user.before.zone_id)].append(events.Left(user.user_id, version))


def _tell_changed(told: dict[str, list[events.Event]], user: UserEffect) -> None:
    if user.before is None or user.after is None or user.after.zone_id != user.before.zone_id:
        return
    if user.after.version != user.before.version:
        told[zone_channel(user.after.zone_id)].append(events.Changed(user.after))


def _tell_entered(told: dict[str, list[events.Event]], user: UserEffect) -> None:
    if user.after is None:
        return
    if user.before is None or user.after.zone_id != user.before.zone_id:
        told[zone_channel(user.after.zone_id)].append(events.Entered(user.after))
