"""Settings of presence: who watches a zone, over all nodes."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from realtime.setting_bounds import Count, Positive


class PresenceSettings(BaseSettings):
    """The part of the configuration of a node about presence."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    presence_max_clients: Count = 1_000
    """Clients of a channel that presence names; beyond, error 106 and no joins and leaves: only \
their number."""
    presence_answer_wait_s: Positive = 1
    """Longest wait for the other nodes' answers; then error 100, over HTTP 503."""
    presence_ttl_s: Positive = 10
    """How long a node that died without a word counts as there: so long presence can't be asked."""
    presence_interval_s: Positive = 1
    """Pause between comparisons that find joins and leaves, where somebody asked for them."""
    presence_max_followed_channels: Count = 1_000
    """Channels of a node whose joins and leaves somebody asked for; beyond, error 106."""
    presence_max_waiting_channels: Count = 1_000
    """Channels that may wait for their turn to be asked for; beyond, error 111, over HTTP 503."""
