"""The rules of synchronisation: pure, no I/O library is imported here."""
