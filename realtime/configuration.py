"""The configuration of a node's parts, each read from the settings."""

from __future__ import annotations

from pydantic import SecretStr

from cache.client import Connector, RedisConfig
from channels.feed import FeedConfig
from channels.pace import PaceConfig
from channels.repairs import FollowerConfig
from db.engine import DatabaseConfig
from db.retention import RetentionConfig
from realtime.settings import Settings


def redis_connector(settings: Settings) -> Connector | None:
    """Make what connects to Redis; `None`: there is none.

    One is shared by all that a node does there: what one of them learns of a master that took
    over, the others know, too.
    """
    if settings.redis_url is None:
        return None
    return Connector(
        RedisConfig(
            settings.redis_url.get_secret_value(),
            key_prefix=settings.redis_prefix,
            command_timeout_s=settings.redis_timeout_s,
            connect_timeout_s=settings.redis_timeout_s,
        )
    )


def database_config(settings: Settings) -> DatabaseConfig:
    """Read the database's part of the settings."""
    return DatabaseConfig(
        url=settings.database_url.get_secret_value(),
        direct_url=(settings.database_direct_url or SecretStr("")).get_secret_value(),
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_recycle_s=settings.pool_recycle_s,
        pool_timeout_s=settings.pool_timeout_s,
        pool_pre_ping=settings.pool_pre_ping,
        statement_timeout_s=settings.statement_timeout_s,
        lock_timeout_s=settings.lock_timeout_s,
        max_tries=settings.transaction_max_tries,
    )


def retention_config(settings: Settings, slack: float = 0) -> RetentionConfig:
    """Read the retention's part of the settings; `slack` as in the configuration made of them."""
    return RetentionConfig(
        max_changes=settings.retention_max_changes,
        max_age_s=settings.retention_max_age_s,
        batch_changes=settings.retention_batch_changes,
        slack=slack,
    )


def feed_config(settings: Settings) -> FeedConfig:
    """Read the feed's part of the settings."""
    return FeedConfig(
        following=FollowerConfig(
            resume_max_changes=settings.resume_max_changes,
            gap_wait_s=settings.gap_wait_s,
            linger_s=settings.follow_linger_s,
        ),
        head_check_interval_s=settings.head_check_interval_s,
        stale_after_s=settings.stale_after_s,
        atomic_wait_s=settings.atomic_wait_s,
        slow_drain_timeout_s=settings.slow_drain_timeout_s,
        min_position_wait_s=settings.min_position_wait_s,
        catch_up_max_bytes=settings.slow_buffer_max_bytes,
        # A reply is bounded alike, whether it holds the state or the changes since.
        resume_max_bytes=settings.snapshot_max_bytes,
        pace=PaceConfig(
            window_s=settings.fan_out_window_s,
            storm_window_s=settings.fan_out_storm_window_s,
            piece_max_writes=settings.fan_out_piece_max_writes,
        ),
    )
