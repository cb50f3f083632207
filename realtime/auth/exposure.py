"""Exposure: whether a node would let in whoever reaches it, found out before it listens."""

from __future__ import annotations

from realtime.settings import Settings, SettingsError


def check_exposure(settings: Settings) -> str:
    """Return one line that says who is let in.

    Raises:
        SettingsError: everybody who can reach the address would be, and nobody said so.
    """
    if settings.auth_on:
        return "who has a token is let in"
    if settings.loopback:
        return "no token is needed: only this machine can connect"
    if settings.insecure:
        return "NO TOKEN IS NEEDED by whoever can reach this address: --insecure says so"
    raise SettingsError(
        f"{settings.host} can be reached by others, and nobody would be asked for a token; "
        "set ZONECAST_JWT_SECRET or another key, or listen on 127.0.0.1, or say --insecure"
    )
