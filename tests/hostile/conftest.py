"""Attackers meet the same nodes as everybody else."""

from __future__ import annotations

from tests.realtime.conftest import live_node

__all__ = ["live_node"]
