"""Copies of the truth, and the fast path between nodes: Redis, or this process alone."""
