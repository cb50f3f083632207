"""The homes of users: in which watched zone somebody is, where two channels claim them.

Within a transaction nobody is ever in two zones. But zones are subscribed one by one, and one may
be known as it is while another is still as it was: then the newer version decides.
"""

from __future__ import annotations

from realtime.client.zone import WatchedZone

Age = tuple[int, int]
"""`(generation, version)`: versions are compared within one history of the database."""


class Homes:
    """All watched zones' users, each in one of them. Never awaits."""

    def __init__(self) -> None:
        self._only: dict[int, WatchedZone] = {}
        self._rivals: dict[int, list[WatchedZone]] = {}
        self._departed: dict[int, Age] = {}
        self._generations: dict[str, int] = {}
        self._generation = 0
        self._next_generation = 1

    def begin_batch(self) -> None:
        """Take the zones that have another history from here on to share it."""
        self._next_generation = self._generation + 1

    def renewed(self, zone_id: str, *, is_other_history: bool) -> None:
        """Note that a zone's state was read; in another history versions begin anew."""
        if is_other_history:
            self._generation = self._next_generation
        self._generations[zone_id] = self._generation

    def entered(self, zone: WatchedZone, user_id: int) -> None:
        """Note that a zone holds a user, or another version of one."""
        other = self._only.setdefault(user_id, zone)
        rivals = self._rivals.get(user_id)
        if rivals is None:
            if other is zone:
                return
            rivals = self._rivals[user_id] = [other]
        if zone not in rivals:
            rivals.append(zone)
        self._settle(user_id)

    def left(self, zone: WatchedZone, user_id: int, version: int | None = None) -> None:
        """Note that a zone doesn't hold a user any more, since a version if that is known."""
        rivals = self._rivals.get(user_id)
        if rivals is None:
            if self._only.get(user_id) is zone:
                del self._only[user_id]
            return
        if zone in rivals:
            rivals.remove(zone)
        if version is not None:
            age = (self._generations.get(zone.zone_id, 0), version)
            self._departed[user_id] = max(age, self._departed.get(user_id, age))
        self._settle(user_id)

    def _settle(self, user_id: int) -> None:
        rivals = self._rivals[user_id]
        if not rivals:
            self._forget(user_id)
            self._only.pop(user_id, None)
            return
        newest = max(rivals, key=lambda zone: self._age(zone, user_id))
        departed = self._departed.get(user_id)
        # Leaving and entering elsewhere make one and the same version.
        is_anywhere = departed is None or self._age(newest, user_id) >= departed
        for zone in rivals:
            zone.outdate(user_id, is_outdated=zone is not newest or not is_anywhere)
        if len(rivals) == 1 and is_anywhere:
            self._forget(user_id)
            self._only[user_id] = newest

    def _forget(self, user_id: int) -> None:
        del self._rivals[user_id]
        self._departed.pop(user_id, None)

    def _age(self, zone: WatchedZone, user_id: int) -> Age:
        return self._generations.get(zone.zone_id, 0), zone.held[user_id].version
