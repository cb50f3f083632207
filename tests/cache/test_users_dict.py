"""The users dict as bytes, and which copy is older."""

from __future__ import annotations

import pytest

from cache.users_dict import (
    HEADER_RANGE,
    CachedBytes,
    MalformedValueError,
    NearCopy,
    Stamp,
    decode_stamp,
    decode_value,
    encode_value,
)

USERS = {"1001": {"id": 1, "name": "Łukasz\n", "zone_id": None, "version": 1}}


def copy_of(revs: int, identity: str = "db") -> CachedBytes:
    """Make a copy of a state."""
    return CachedBytes.of_dict({"revs": revs}, Stamp(identity, 1, revs))


def adopt(near: NearCopy, copy: CachedBytes, load: int, loads_begun: int) -> bool:
    """Adopt a copy at a generation and a time that don't matter."""
    return near.adopt(copy, generation=0, load=load, loads_begun=loads_begun, now_s=0)


@pytest.mark.parametrize("stamp", [Stamp("db" * 100, 10**9, 2**53), None])
def test_a_value_is_read_as_it_was_written(stamp: Stamp | None) -> None:
    """Round trip; the stamp is found in the first bytes alone."""
    copy = CachedBytes.of_dict(USERS, stamp)
    value = encode_value(copy)
    assert decode_value(value) == copy
    assert decode_value(value).to_dict() == USERS
    assert decode_stamp(value[: HEADER_RANGE[1] + 1]) == stamp


def test_values_of_other_releases_are_read_or_refused() -> None:
    """One without a version is older and read; new keys are ignored; a newer version is refused."""
    copy = CachedBytes.of_dict(USERS, None)
    value = encode_value(copy)
    assert b'"v":1' in value
    assert decode_value(value.replace(b',"v":1', b"", 1)) == copy
    assert decode_value(value.replace(b'"v":1', b'"v":1,"codec":"x"', 1)) == copy
    with pytest.raises(MalformedValueError):
        decode_value(value.replace(b'"v":1', b'"v":2', 1))
    with pytest.raises(MalformedValueError):
        decode_stamp(value.replace(b'"v":1', b'"v":2', 1))


def test_the_etag_is_of_the_body_alone() -> None:
    """Nodes that read the same dict at different states agree on its tag."""
    one, other = (CachedBytes.of_dict(USERS, Stamp("db", 1, revs)) for revs in (1, 2))
    assert one.etag == other.etag
    assert one.etag != CachedBytes.of_dict({}, None).etag


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: b"",
        lambda value: b"\n",
        lambda value: value[:-1],
        lambda value: value[10:],
        lambda value: value.replace(b"\n", b"", 1),
        lambda value: b"[" * 100_000,
        lambda value: value.replace(b'"db"', b'"\xdd"', 1),
        lambda value: value + b" ",
    ],
)
def test_a_spoilt_value_is_refused(spoil: object) -> None:
    """Whatever else is under the key is no users dict."""
    assert callable(spoil)
    value = encode_value(CachedBytes.of_dict(USERS, Stamp("db", 1, 1)))
    with pytest.raises(MalformedValueError):
        decode_value(spoil(value))


def test_nothing_older_replaces_a_copy() -> None:
    """Within a history the sum of revisions decides; an equal one is as good."""
    near = NearCopy()
    assert adopt(near, copy_of(5), load=1, loads_begun=1)
    assert not adopt(near, copy_of(4), load=2, loads_begun=2)
    assert adopt(near, copy_of(5), load=3, loads_begun=3)
    assert adopt(near, copy_of(6), load=0, loads_begun=3)
    assert near.newest == copy_of(6)


def test_another_history_is_believed_only_to_a_load_that_began_later() -> None:
    """After a restart of the database a slow load or Redis may still bring the old history."""
    near = NearCopy()
    assert adopt(near, copy_of(5, "old"), load=1, loads_begun=1)
    assert not adopt(near, copy_of(1, "new"), load=0, loads_begun=2)
    assert adopt(near, copy_of(1, "new"), load=3, loads_begun=3)
    assert not adopt(near, copy_of(6, "old"), load=2, loads_begun=3)
    assert not adopt(near, copy_of(6, "old"), load=0, loads_begun=3)
    assert near.newest == copy_of(1, "new")


def test_an_unstamped_copy_never_replaces_a_stamped_one() -> None:
    """Nobody knows how old it is."""
    near = NearCopy()
    unstamped = CachedBytes.of_dict(USERS, None)
    assert adopt(near, unstamped, load=0, loads_begun=0)
    assert adopt(near, copy_of(1), load=1, loads_begun=1)
    assert not adopt(near, unstamped, load=2, loads_begun=2)


def test_a_copy_is_current_until_something_was_invalidated() -> None:
    """Then, and when it is too old, it is kept but not current."""
    near = NearCopy()
    near.adopt(copy_of(1), generation=3, load=1, loads_begun=1, now_s=100)
    assert near.current(3, now_s=101, ttl_s=5) == copy_of(1)
    assert near.current(4, now_s=101, ttl_s=5) is None
    assert near.current(3, now_s=105, ttl_s=5) is None
    assert near.newest == copy_of(1)
