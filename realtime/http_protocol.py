"""The HTTP protocol: uvicorn's, with a way to end a stream whose client stopped reading."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT_EXTENSION: Final = "zonecast.abort"
"""The ASGI scope's extension: `{"abort": callable}` drops the connection, buffers included."""


class AbortableHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, whose connections the application can abort.

    Closing waits until the client has read what is buffered, which one that stopped reading
    never does.
    """

    def on_message_begin(self) -> None:
        """Begin a request with the extension in its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: {"abort": self.transport.abort}}
