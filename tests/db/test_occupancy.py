"""Occupancy: several nodes on one database must share a bus, or the second is refused."""

from __future__ import annotations

import pytest

from db.occupancy import OccupiedError, occupy


async def test_a_second_node_without_a_bus_is_refused(database_url: str) -> None:
    """Whichever database it is, the one that serves alone keeps it to itself."""
    async with occupy(database_url, shares_bus=False):
        with pytest.raises(OccupiedError):
            async with occupy(database_url, shares_bus=False):
                pass
    async with occupy(database_url, shares_bus=False):
        pass


async def test_nodes_that_share_a_bus_serve_together(postgres_url: str) -> None:
    """Any number of them, and none without the bus beside them."""
    async with occupy(postgres_url, shares_bus=True), occupy(postgres_url, shares_bus=True):
        with pytest.raises(OccupiedError, match="ZONECAST_REDIS_URL"):
            async with occupy(postgres_url, shares_bus=False):
                pass


async def test_a_node_with_a_bus_does_not_join_one_that_serves_alone(postgres_url: str) -> None:
    """The one without a bus would not hear it."""
    async with occupy(postgres_url, shares_bus=False):
        with pytest.raises(OccupiedError, match="without a bus"):
            async with occupy(postgres_url, shares_bus=True):
                pass
