"""WebSockets: sessions without a task, driven by their protocol."""
