"""The tables: users and zones, and the heads and rows of the change log."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Connection,
    ForeignKey,
    Identity,
    MetaData,
    String,
    Table,
    event,
    text,
)
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates

from channels.names import DIRECTORY, REVOCATIONS, UNASSIGNED, is_zone_id
from channels.positions import MAX_REV
from db.errors import InvalidValueError
from db.types import RowId, UtcDateTime, utc_now

MAX_ID: Final = MAX_REV
"""The largest id that every client's number type holds exactly."""
MAX_NAME_CHARS: Final = 200
STATIC_CHANNELS: Final = (REVOCATIONS, UNASSIGNED, DIRECTORY)
"""The channels that exist from the beginning."""


def random_epoch() -> str:
    """Make the epoch of a new history: 16 random hex digits."""
    return secrets.token_hex(8)


def _checked_name(name: str) -> str:
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise InvalidValueError("name", f"not of 1 to {MAX_NAME_CHARS} characters")
    if "\0" in name:
        raise InvalidValueError("name", "contains a NUL character")
    return name


class Base(DeclarativeBase):
    """The metadata of all tables, with names for all constraints."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Zone(Base):
    """A place in which users are."""

    __tablename__ = "zones"

    zone_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME_CHARS))
    attributes: Mapped[dict[str, Any]] = mapped_column(
        MutableDict.as_mutable(JSON(none_as_null=True)), default=dict, server_default=text("'{}'")
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime(), default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime(), default=utc_now, onupdate=utc_now)

    # The database refuses to delete a zone with users; nobody sets their zone_id to NULL on
    # the way, which the change capture would not see. Loading is always asked for.
    users: Mapped[list[User]] = relationship(
        back_populates="zone", lazy="raise_on_sql", passive_deletes="all", order_by="User.id"
    )

    @validates("zone_id")
    def _check_zone_id(self, _key: str, zone_id: str) -> str:
        if not is_zone_id(zone_id):
            raise InvalidValueError("zone_id", "not 1 to 64 of letters, digits, '.', '_', '-'")
        return zone_id

    @validates("name")
    def _check_name(self, _key: str, name: str) -> str:
        return _checked_name(name)


class User(Base):
    """Somebody who is in one zone or in none."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint(f"id BETWEEN 1 AND {MAX_ID}", name="id_range"),
        CheckConstraint(f"global_id BETWEEN 0 AND {MAX_ID}", name="global_id_range"),
        # Without it SQLite would give the id of the last deleted user to the next one.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, Identity(minvalue=1, maxvalue=MAX_ID), primary_key=True)
    global_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME_CHARS))
    # NO ACTION: a SET NULL of the database would run behind the change capture's back.
    zone_id: Mapped[str | None] = mapped_column(String(64), ForeignKey("zones.zone_id"), index=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(
        MutableDict.as_mutable(JSON(none_as_null=True)), default=dict, server_default=text("'{}'")
    )
    version: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime(), default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime(), default=utc_now, onupdate=utc_now)

    zone: Mapped[Zone | None] = relationship(back_populates="users", lazy="raise_on_sql")

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - read by SQLAlchemy, not shared

    @validates("global_id")
    def _check_global_id(self, _key: str, global_id: int) -> int:
        if not 0 <= global_id <= MAX_ID:
            raise InvalidValueError("global_id", f"not between 0 and {MAX_ID}")
        return global_id

    @validates("name")
    def _check_name(self, _key: str, name: str) -> str:
        return _checked_name(name)


class ChannelHead(Base):
    """Where a channel is; its row is locked by whoever changes the channel until it commits.

    Attributes:
        channel: The channel's name.
        epoch: Of the history in the tables, hex; clients see it hashed with the identity of
            the database.
        rev: How many committed transactions have changed the channel.
        floor: Changes up to this revision are no longer retained, or of an older epoch.
    """

    __tablename__ = "channel_heads"

    channel: Mapped[str] = mapped_column(String(80), primary_key=True)
    epoch: Mapped[str] = mapped_column(String(32))
    rev: Mapped[int] = mapped_column(BigInteger)
    floor: Mapped[int] = mapped_column(BigInteger)


class ChangeRow(Base):
    """What one transaction did to one channel.

    Attributes:
        channel: The channel's name.
        rev: The revision that it made.
        tx_id: The transaction, the same on all its channels, 16 hex digits.
        at: When it was recorded.
        span: How many channels the transaction changed.
        events: The JSON array that clients see, kept as it was written.
    """

    __tablename__ = "changes"

    channel: Mapped[str] = mapped_column(String(80), primary_key=True)
    rev: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tx_id: Mapped[str] = mapped_column(String(32), index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime())
    span: Mapped[int]
    events: Mapped[list[dict[str, Any]]] = mapped_column(JSON())


class Revocation(Base):
    """Tokens that were taken back.

    Attributes:
        id: A hash of what is taken back, so that the same again is the same row.
        sub: Whose tokens; or else:
        jti: Which token.
        zones: Patterns of the zones that they lose; `None`: they are good for nothing.
        at_ms: When, Unix milliseconds; tokens issued later are good.
        until_ms: When none of them can be alive any more.
    """

    __tablename__ = "revocations"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    sub: Mapped[str | None] = mapped_column(String(255))
    jti: Mapped[str | None] = mapped_column(String(255))
    zones: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    at_ms: Mapped[int] = mapped_column(BigInteger)
    until_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class Ticket(Base):
    """What lets somebody in once, in the place of a token.

    Attributes:
        digest: SHA-256 of the ticket.
        principal: Whom it lets in.
        until_ms: When it ends, Unix milliseconds.
    """

    __tablename__ = "tickets"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    principal: Mapped[dict[str, Any]] = mapped_column(JSON())
    until_ms: Mapped[int] = mapped_column(BigInteger, index=True)


@event.listens_for(ChannelHead.__table__, "after_create")
def _insert_static_heads(table: Table, connection: Connection, **_kw: object) -> None:
    """Let the static channels exist however the tables were made."""
    connection.execute(
        table.insert(),
        [
            {"channel": channel, "epoch": random_epoch(), "rev": 0, "floor": 0}
            for channel in STATIC_CHANNELS
        ],
    )
