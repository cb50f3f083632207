"""Failures of commands: what may go wrong outside of this program, and is told in one line."""

from __future__ import annotations

from typing import Final


class CommandError(Exception):
    """A command that failed; its message is one line."""


FAILURES: Final = frozenset(
    {
        "channels.ports.UnavailableError",
        "db.errors.DatabaseError",
        "realtime.client.errors.WatchError",
        "realtime.failures.CommandError",
        "realtime.service_api.ServiceError",
        "realtime.settings.SettingsError",
        "realtime.token_command.TokenError",
    }
)
"""By name, as most commands need not import where most of them are; anything else is a fault."""


def is_failure(error: Exception) -> bool:
    """Tell whether an error is one of these; any other shows its trace."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in FAILURES for kind in type(error).__mro__)
