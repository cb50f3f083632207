"""Events as bytes, their ids, and the mailbox in which they wait."""

from __future__ import annotations

import json
from typing import Any

from sse_starlette.event import ServerSentEvent

from channels.changes import Change
from channels.events import Entered, Event, Left, User, Zone, ZoneCreated
from channels.names import DIRECTORY, zone_channel
from channels.positions import Position, format_vector, parse_vector
from realtime.sse import codec as sse_codec
from realtime.sse.codec import PositionVector, SharedBytes, SilentVector, SseCodec
from realtime.sse.mailbox import CHUNK_MAX_BYTES, Mailbox


def a_change(channel: str, rev: int, tx: str, *events: Event) -> Change:
    """Make a change of epoch `e1`."""
    return Change.of_events(channel, Position("e1", rev), tx, 0, events)


def data_of(body: bytes) -> Any:
    """Parse an event's data, which is one line."""
    name, data, *rest = body.decode().split("\n")
    assert name == "event: changes"
    assert rest == ["", ""]
    return json.loads(data.removeprefix("data: "))


ADA = User(7, 1001, 'Ada\n"Ä\u2028', "B", {}, 3)


def test_a_transaction_over_two_zones_is_one_event() -> None:
    """Both zones are in it with their own revisions, and nothing of the directory is."""
    changes = [
        a_change(zone_channel("A"), 4, "t1", Left(7, 3)),
        a_change(zone_channel("B"), 9, "t1", Entered(ADA)),
        a_change(DIRECTORY, 2, "t1", ZoneCreated(Zone("B", "B", {}))),
    ]
    (transaction,) = SseCodec().encode(changes).transactions
    data = data_of(transaction.body)
    assert data["tx"] == "t1"
    assert [(zone["zone_id"], zone["epoch"], zone["rev"]) for zone in data["zones"]] == [
        ("A", "e1", 4),
        ("B", "e1", 9),
    ]
    assert data["zones"][1]["events"][0]["user"]["name"] == ADA.name
    assert transaction.marks == (("A", "A=e1:4"), ("B", "B=e1:9"))
    assert transaction.directory == changes[2].events


def test_transactions_stay_apart_and_in_order() -> None:
    """Each has its own event, and one of the directory alone has none."""
    frame = SseCodec().encode(
        [
            a_change(zone_channel("A"), 1, "t1", Left(7, 3)),
            a_change(DIRECTORY, 5, "t2", ZoneCreated(Zone("N", "N", {}))),
            a_change(zone_channel("A"), 2, "t3", Left(8, 1)),
        ]
    )
    assert [data_of(t.body)["tx"] for t in frame.transactions if t.body] == ["t1", "t3"]
    assert frame.transactions[1].body == b""
    assert frame.transactions[1].marks == ()


def test_the_id_is_the_vector_of_what_was_sent() -> None:
    """It is read back as it was written, and moves with each transaction."""
    vector = PositionVector().set("A", Position("e1", 1)).set("B", Position("e2", 0))
    vector = vector.take((("A", "A=e1:2"),))
    line = vector.id_line.decode()
    assert line == f"id: {format_vector([('A', Position('e1', 2)), ('B', Position('e2', 0))])}\n"
    assert parse_vector(line[4:-1]) == {"A": Position("e1", 2), "B": Position("e2", 0)}
    assert vector.get("A") == Position("e1", 2)
    assert vector.discard("A").get("A") is None


def test_streams_that_have_sent_the_same_share_bytes_and_ids() -> None:
    """Who is elsewhere gets ids of its own, and each transaction has its id before it."""
    frame = SseCodec().encode(
        [a_change(zone_channel("A"), rev, f"t{rev}", Left(rev, 3)) for rev in (2, 3)]
    )
    vectors = [PositionVector().set("A", Position("e1", 1)) for _ in "12"]
    (one, after), (two, same) = (vector.write(frame) for vector in vectors)
    assert one is two
    assert after is same
    assert after.get("A") == Position("e1", 3)
    lines = one.plain.decode().split("\n")
    assert [line for line in lines if line.startswith("id")] == ["id: A=e1:2", "id: A=e1:3"]
    other, both = vectors[0].set("B", Position("e2", 7)).write(frame)
    assert b"id: A=e1:3,B=e2:7\nevent: changes\n" in other.plain
    assert both.get("B") == Position("e2", 7)
    assert vectors[0].get("A") == Position("e1", 1), "nobody else's vector moved"


def test_a_stream_of_all_zones_has_positions_but_no_ids() -> None:
    """They are for resuming a zone within the stream."""
    frame = SseCodec().encode([a_change(zone_channel("A"), 2, "t2", Left(2, 3))])
    vector = SilentVector()
    shared, after = vector.write(frame)
    assert b"id:" not in shared.plain
    assert after.get("A") == Position("e1", 2)
    assert SilentVector().write(frame)[0] is shared
    assert after.id_line == b""


def test_shared_bytes_are_a_chunk_too() -> None:
    """Its length in hexadecimal digits goes before; nothing is no chunk, which would be the end."""
    assert SharedBytes(b"x" * 26).chunk == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert SharedBytes(b"").chunk == b""


def test_events_are_written_as_sse_starlette_writes_them() -> None:
    """What it is given as text, this is given as bytes."""
    text = '{"a":"ü\\n"}'
    theirs = ServerSentEvent(text, event="changes", sep="\n").encode()
    assert sse_codec.event("changes", text.encode()) == theirs


def test_a_status_tells_since_when() -> None:
    """Live has no since; only streams of all zones list them."""
    assert sse_codec.status(since_ms=None) == sse_codec.event(
        "status", b'{"state":"live","since":null}'
    )
    assert sse_codec.status(since_ms=5, zone_ids={"B", "A"}) == sse_codec.event(
        "status", b'{"state":"stale","since":5,"zones":["A","B"]}'
    )


def test_clients_come_back_spread_out() -> None:
    """The wait is the setting's and up to half as long again."""
    waits = {int(sse_codec.retry(2000).split()[1]) for _ in range(100)}
    assert min(waits) >= 2000
    assert max(waits) <= 3000
    assert len(waits) > 10


def test_the_mailbox_hands_out_bounded_chunks_in_order() -> None:
    """A large entry is cut, small ones are joined, and nothing is lost."""
    mailbox = Mailbox(limit_bytes=10)
    large = bytes(range(256)) * 1000
    for data in (b"a", large, b"b", b"c"):
        mailbox.put(data, counted=False)
    taken = []
    while chunk := mailbox.take():
        assert len(chunk) <= CHUNK_MAX_BYTES
        taken.append(chunk)
        mailbox.sent()
    assert b"".join(taken) == b"a" + large + b"bc"
    assert not mailbox


def test_only_what_is_counted_congests_and_draining_ends_it() -> None:
    """Snapshots don't count; congestion lasts until no more than a quarter waits."""
    mailbox = Mailbox(limit_bytes=2 * CHUNK_MAX_BYTES)
    mailbox.put(b"s" * 10 * CHUNK_MAX_BYTES, counted=False)
    assert not mailbox.congested
    mailbox.put(b"c" * (2 * CHUNK_MAX_BYTES + 1))
    assert mailbox.congested
    for _ in range(11):
        mailbox.take()
        assert not mailbox.sent()
    mailbox.take()
    assert mailbox.congested, "what is in flight still counts"
    assert mailbox.sent()
    assert not mailbox.congested
