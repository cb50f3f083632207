"""OpenTelemetry traces. Imported only by nodes that have a collector: see `OtelSettings`."""
