"""Event streams, written to the connection past ASGI."""
