"""Proxies: who a client is that comes through one, for handshakes, which no middleware sees."""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.middleware.proxy_headers import _TrustedHosts


class Proxies:
    """Believes what the named proxies say, as uvicorn does for requests.

    Args:
        trusted: Addresses or networks with commas between them; empty: none.
    """

    def __init__(self, trusted: str) -> None:
        # uvicorn's own, so that requests and handshakes have the same client.
        self._hosts = _TrustedHosts(trusted) if trusted.strip() else None

    def client_of(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the `host:port` of the client, `peer` where no trusted proxy says another.

        Args:
            peer: The other end of the connection, `host:port`.
            headers: Of the request, names in lower case.
        """
        if self._hosts is None or peer.rpartition(":")[0] not in self._hosts:
            return peer
        forwarded = b", ".join(value for name, value in headers if name == b"x-forwarded-for")
        if not forwarded:
            return peer
        host, port = self._hosts.get_trusted_client_address(forwarded.decode("latin-1"))
        return f"{host}:{port}" if host else peer
