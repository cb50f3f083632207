"""Missed changes are encoded once for a crowd, and within bounds."""

from __future__ import annotations

import pytest

from channels.changes import Change
from channels.events import Left
from channels.positions import Position
from realtime.websocket import missed
from realtime.websocket.json_codec import JSON
from realtime.websocket.missed import KEPT_MAX, MissedPublications

CHANGES = tuple(
    Change.of_events("zone:A", Position("ab12", rev), f"t{rev}", 1, (Left(rev, 2),))
    for rev in range(1, 2 * KEPT_MAX)
)


def test_clients_that_missed_the_same_share_the_bytes() -> None:
    """However many come, it is encoded once; who missed more or less gets its own."""
    publications = MissedPublications()
    first = publications.encoded(JSON, CHANGES[2:5])
    assert publications.encoded(JSON, CHANGES[2:5]) is first
    assert first == JSON.encode_publications(CHANGES[2:5])
    for others in (CHANGES[2:4], CHANGES[2:6], CHANGES[1:5]):
        assert publications.encoded(JSON, others) == JSON.encode_publications(others)


def test_who_missed_nothing_gets_no_publications() -> None:
    """Also where something is kept."""
    publications = MissedPublications()
    publications.encoded(JSON, CHANGES)
    assert publications.encoded(JSON, ()) == b""


def test_the_oldest_are_forgotten() -> None:
    """Clients of many positions fill no memory."""
    publications = MissedPublications()
    first = publications.encoded(JSON, CHANGES[:1])
    for count in range(2, KEPT_MAX + 1):
        publications.encoded(JSON, CHANGES[:count])
    assert publications.encoded(JSON, CHANGES[:1]) is first
    publications.encoded(JSON, CHANGES[: KEPT_MAX + 1])
    again = publications.encoded(JSON, CHANGES[:1])
    assert again == first
    assert again is not first


def test_long_ones_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is bounded in bytes, too."""
    monkeypatch.setattr(missed, "KEPT_MAX_BYTES", 10)
    publications = MissedPublications()
    first = publications.encoded(JSON, CHANGES[:3])
    again = publications.encoded(JSON, CHANGES[:3])
    assert again == first
    assert again is not first
