"""What an object knows of its row as it was before the object was changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState, PassiveFlag

from db.models import User, Zone
from db.net_effect import UserBefore

_PARTIAL: Final = "zonecast.partial"


def state_of(obj: User | Zone) -> InstanceState[Any]:
    """Return what SQLAlchemy keeps about an object."""
    state: InstanceState[Any] = inspect(obj)
    return state


def identity_of(obj: User | Zone) -> Any:
    """Return the key of the row of an object that has been persistent."""
    key = state_of(obj).identity
    assert key is not None  # noqa: S101 - only what is dirty or deleted is asked about
    return key[0]


def known_before(user: User) -> UserBefore | None:
    """Where the user was before the object was changed, when the object knows it for sure."""
    state = state_of(user)
    if _PARTIAL in state.info:
        return None
    zone, version = _loaded(state, "zone_id"), _loaded(state, "version")
    return UserBefore(zone[0], version[0]) if zone and version else None


def known_version(user: User) -> int | None:
    """Return the version that the object was read at, when that was read."""
    version = _loaded(state_of(user), "version")
    return version[0] if version else None


def user_refreshed(user: User, _context: object, attributes: Iterable[str] | None) -> None:
    """Distrust a zone that is older than the version: they were read at different times.

    A listener of SQLAlchemy's `refresh`.
    """
    state = state_of(user)
    if attributes is None or "zone_id" in attributes:
        state.info.pop(_PARTIAL, None)
    elif "version" in attributes:
        state.info[_PARTIAL] = True


def _loaded(state: InstanceState[Any], name: str) -> tuple[Any, ...] | None:
    """Return the value that was read from the database, as a tuple of it, if there is one."""
    history = state.get_history(name, PassiveFlag.PASSIVE_NO_INITIALIZE)
    found = history.deleted or history.unchanged
    return tuple(found) if found else None
