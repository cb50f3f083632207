"""Where a service's WebSocket is, and whether a proxy is to be asked on the way there."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from realtime import loopback
from realtime.client.errors import WatchError


def websocket_url(url: str) -> str:
    """Return where the WebSocket of a service at `http(s)://host[:port]` is.

    Raises:
        WatchError: the URL is no such address.
    """
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(url.partition(":")[0])
    if not is_address or scheme is None:
        raise WatchError(f"not an address like http://127.0.0.1:8000: {url}")
    path = parts.path.rstrip("/") + "/connection/websocket"
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def is_loopback(url: str) -> bool:
    """Tell whether a URL is on this machine, where no proxy is to be asked."""
    return loopback.is_loopback(urlsplit(url).hostname or "")
