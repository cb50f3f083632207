"""Revoked tokens with a channel of their own, and tickets."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and the head of the channel."""
    op.create_table(
        "revocations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sub", sa.String(255), nullable=True),
        sa.Column("jti", sa.String(255), nullable=True),
        sa.Column("zones", sa.JSON(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revocations"),
    )
    op.create_index("ix_revocations_until_ms", "revocations", ["until_ms"])
    op.create_table(
        "tickets",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("principal", sa.JSON(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_tickets"),
    )
    op.create_index("ix_tickets_until_ms", "tickets", ["until_ms"])
    heads = sa.table(
        "channel_heads",
        sa.column("channel", sa.String),
        sa.column("epoch", sa.String),
        sa.column("rev", sa.BigInteger),
        sa.column("floor", sa.BigInteger),
    )
    op.bulk_insert(
        heads, [{"channel": "revocations", "epoch": secrets.token_hex(8), "rev": 0, "floor": 0}]
    )


def downgrade() -> None:
    """Drop the tables, and the channel."""
    op.execute("DELETE FROM changes WHERE channel = 'revocations'")
    op.execute("DELETE FROM channel_heads WHERE channel = 'revocations'")
    op.drop_table("tickets")
    op.drop_table("revocations")
