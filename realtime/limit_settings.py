"""Settings of limits: how much one client, or all that come at once, may ask of a node."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Bound = Annotated[int, Field(ge=0, le=10_000_000)]
"""0: there is none."""
Rate = Annotated[float, Field(ge=0, le=10_000_000)]
"""0: there is none."""
Burst = Annotated[int, Field(ge=1, le=10_000_000)]


class LimitSettings(BaseSettings):
    """The limits' part of the configuration of a node."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    max_connections_per_address: Bound = 0
    """Connections of one client address, or of one IPv6 /64, to a node; then 429. 0: no bound of \
its own, as many people may come from one address."""
    max_connections_per_subject: Bound = 1_000
    """Connections to a node with tokens of one `sub`; then error 111, over HTTP 429. 0: no \
bound."""
    commands_per_s: Rate = 200
    """Commands in a second that one WebSocket connection may send for long; then error 111. \
0: no bound."""
    commands_burst: Burst = 4_096
    """Commands that it may send at once; who ignores ten times as many errors is cut (3509)."""
    subscribes_per_s: Rate = 10_000
    """Subscriptions in a second that a node begins for long; then error 111, over SSE 503. \
0: no bound."""
    subscribes_burst: Burst = 50_000
    """Subscriptions that it begins at once."""
    requests_per_s: Rate = 0
    """HTTP requests in a second that one token's `sub`, or without a token one address or IPv6 \
/64, may send for long, to all nodes together where there is Redis; then 429. 0: no bound."""
    requests_burst: Burst = 200
    """HTTP requests that it may send at once."""
