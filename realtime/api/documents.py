"""Documents: what bodies and queries may hold, and the shape of what is answered."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from channels.names import ZONE_ID_PATTERN

MAX_ID: Final = 2**53 - 1
"""The largest integer that every client's number type holds exactly."""
MAX_SKIP: Final = 10_000_000
MAX_LIMIT: Final = 1_000
MAX_ROWS: Final = 1_000
ATTRIBUTES_MAX_BYTES: Final = 16_384
ATTRIBUTES_MAX_DEPTH: Final = 16

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def _without_control(text: str) -> str:
    if _CONTROL.search(text):
        msg = "must not contain control characters"
        raise ValueError(msg)
    return text


def _bounded(attributes: dict[str, Any]) -> dict[str, Any]:
    _check_value(attributes, depth=1)
    if len(msgspec.json.encode(attributes)) > ATTRIBUTES_MAX_BYTES:
        msg = f"must not be longer than {ATTRIBUTES_MAX_BYTES} bytes of JSON"
        raise ValueError(msg)
    return attributes


def _check_value(value: object, *, depth: int) -> None:
    match value:
        case dict():
            _check_depth(depth)
            for key, member in value.items():
                _check_text(str(key))
                _check_value(member, depth=depth + 1)
        case list():
            _check_depth(depth)
            for member in value:
                _check_value(member, depth=depth + 1)
        case str():
            _check_text(value)
        case int() if abs(value) > MAX_ID:
            msg = "must not contain integers beyond 2**53 - 1"
            raise ValueError(msg)


def _check_depth(depth: int) -> None:
    if depth > ATTRIBUTES_MAX_DEPTH:
        msg = f"must not be nested deeper than {ATTRIBUTES_MAX_DEPTH}"
        raise ValueError(msg)


def _check_text(text: str) -> None:
    # PostgreSQL's text has no room for it.
    if "\x00" in text:
        msg = "must not contain the character U+0000"
        raise ValueError(msg)


Id = Annotated[int, Field(ge=1, le=MAX_ID)]
ZoneId = Annotated[str, StringConstraints(pattern=ZONE_ID_PATTERN)]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_without_control)
]
Attributes = Annotated[dict[str, Any], AfterValidator(_bounded)]

UserIdInPath = Annotated[int, Path(ge=1, le=MAX_ID)]
ZoneIdInPath = Annotated[str, Path(pattern=ZONE_ID_PATTERN)]
ZoneIdInQuery = Annotated[str | None, Query(pattern=ZONE_ID_PATTERN)]
IdInQuery = Annotated[int | None, Query(ge=1, le=MAX_ID)]
Skip = Annotated[int, Query(ge=0, le=MAX_SKIP)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]


class Body(BaseModel):
    """A request's body: JSON types as they are, and no key that would silently do nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def given(self) -> dict[str, Any]:
        """Return the values of the keys that the client sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class NewZone(Body):
    """A zone to be made."""

    zone_id: ZoneId
    name: Name
    attributes: Attributes = Field(default_factory=dict)


class ZonePatch(Body):
    """What is to be changed of a zone; keys left out stay. Attributes are replaced whole."""

    name: Name = Field(default_factory=str)
    attributes: Attributes = Field(default_factory=dict)


class NewUser(Body):
    """A user to be made."""

    global_id: Id
    name: Name
    zone_id: ZoneId | None = None
    attributes: Attributes = Field(default_factory=dict)


class NewUsers(Body):
    """Users to be made together or not at all."""

    users: Annotated[list[NewUser], Field(min_length=1, max_length=MAX_ROWS)]


class UserPatch(Body):
    """What is to be changed of a user; keys left out stay. Attributes are replaced whole."""

    global_id: Id = Field(default_factory=int)
    name: Name = Field(default_factory=str)
    zone_id: ZoneId | None = None
    attributes: Attributes = Field(default_factory=dict)


class Destination(Body):
    """Where a user goes; `null`: to no zone."""

    zone_id: ZoneId | None


class TransferRow(Body):
    """One move of one user, named by either id."""

    user_id: Id | None = None
    global_id: Id | None = None
    zone_id: ZoneId | None

    @model_validator(mode="after")
    def _one_id(self) -> TransferRow:
        if (self.user_id is None) == (self.global_id is None):
            msg = "must have either user_id or global_id"
            raise ValueError(msg)
        return self


class Transfers(Body):
    """Moves of one transaction, applied in order."""

    transfers: Annotated[list[TransferRow], Field(min_length=1, max_length=MAX_ROWS)]


class UserDocument(BaseModel):
    """A user, as in events."""

    id: int
    global_id: int
    name: str
    zone_id: str | None
    attributes: dict[str, Any]
    version: int


class ZoneDocument(BaseModel):
    """A zone, as in events; `users` only where they were asked for."""

    zone_id: str
    name: str
    attributes: dict[str, Any]
    users: list[UserDocument] | None = None


class UserList(BaseModel):
    """Users, by id."""

    users: list[UserDocument]


class ZoneList(BaseModel):
    """Zones, by zone id."""

    zones: list[ZoneDocument]


class Count(BaseModel):
    """How many there are."""

    count: int


class SnapshotDocument(BaseModel):
    """A zone at exactly one position."""

    channel: str
    epoch: str
    rev: int
    zone: ZoneDocument
    users: list[UserDocument]
    digest: str


class DigestDocument(BaseModel):
    """What a zone's users come to, at exactly one position."""

    channel: str
    epoch: str
    rev: int
    digest: Annotated[
        str,
        Field(
            description="`<count>-<8 hex>`: the sum modulo 2^32 of the CRC-32 of ASCII"
            " `id:version` of its users"
        ),
    ]
    count: int
    source: Literal["replica", "database"]


class ChangeDocument(BaseModel):
    """What one transaction did to the zone."""

    rev: int
    tx: str
    time: Annotated[int, Field(description="Unix milliseconds")]
    events: list[dict[str, Any]]


class ChangesDocument(BaseModel):
    """Changes after `from_rev` up to and with `rev`, from which on to ask for more."""

    channel: str
    epoch: str
    from_rev: int
    rev: int
    changes: list[ChangeDocument]


class UsersDictEntry(BaseModel):
    """A user in the dict of all users."""

    id: int
    name: str
    zone_id: str | None
    version: int
