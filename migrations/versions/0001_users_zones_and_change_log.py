"""Users, zones, and the heads and rows of the change log."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MAX_ID = 2**53 - 1
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def _create_zones() -> None:
    op.create_table(
        "zones",
        sa.Column("zone_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("attributes", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("zone_id", name="pk_zones"),
    )


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("id", _ROW_ID, sa.Identity(minvalue=1, maxvalue=_MAX_ID), nullable=False),
        sa.Column("global_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("zone_id", sa.String(64), nullable=True),
        sa.Column("attributes", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.CheckConstraint(f"id BETWEEN 1 AND {_MAX_ID}", name=op.f("ck_users_id_range")),
        sa.CheckConstraint(
            f"global_id BETWEEN 0 AND {_MAX_ID}", name=op.f("ck_users_global_id_range")
        ),
        sa.ForeignKeyConstraint(["zone_id"], ["zones.zone_id"], name="fk_users_zone_id_zones"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("global_id", name="uq_users_global_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_users_zone_id", "users", ["zone_id"])


def _create_change_log() -> None:
    heads = op.create_table(
        "channel_heads",
        sa.Column("channel", sa.String(80), nullable=False),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_channel_heads"),
    )
    op.create_table(
        "changes",
        sa.Column("channel", sa.String(80), nullable=False),
        sa.Column("rev", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tx_id", sa.String(32), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("span", sa.Integer(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "rev", name="pk_changes"),
    )
    op.create_index("ix_changes_tx_id", "changes", ["tx_id"])
    op.bulk_insert(
        heads,
        [
            {"channel": channel, "epoch": secrets.token_hex(8), "rev": 0, "floor": 0}
            for channel in ("unassigned", "zones")
        ],
    )


def upgrade() -> None:
    """Create all tables and the heads of the static channels."""
    _create_zones()
    _create_users()
    _create_change_log()


def downgrade() -> None:
    """Drop all tables."""
    op.drop_table("changes")
    op.drop_table("channel_heads")
    op.drop_table("users")
    op.drop_table("zones")
