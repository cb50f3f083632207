"""Presence as nodes add it up, and what differs between two looks."""

from __future__ import annotations

from channels.presence import Difference, Headcount, Presence


def here(*, is_named: bool = True, **clients: str) -> Headcount:
    return Headcount.of_clients(clients, is_named=is_named)


def test_a_user_counts_once_over_all_nodes_and_who_is_unknown_each_time() -> None:
    """Whether the nodes named their clients or only counted them."""
    for named in ((True, True), (True, False), (False, False)):
        parts = [
            here(a="ada", b="ada", c="", is_named=named[0]),
            here(d="ada", e="eve", f="", is_named=named[1]),
        ]
        found = Presence.of_nodes(parts, 10)
        assert (found.num_clients, found.num_users) == (6, 4)
        assert (found.clients is not None) == all(named)


def test_more_clients_than_may_be_named_are_still_counted() -> None:
    """At the bound they are named."""
    parts = [here(a="ada", b="eve"), here(c="ida")]
    assert Presence.of_nodes(parts, 3).clients == {"a": "ada", "b": "eve", "c": "ida"}
    found = Presence.of_nodes(parts, 2)
    assert found.clients is None
    assert (found.num_clients, found.num_users) == (3, 3)


def test_nobody_is_nobody() -> None:
    """No node has anybody."""
    found = Presence.of_nodes([], 10)
    assert (found.clients, found.num_clients, found.num_users) == ({}, 0, 0)


def test_a_difference_is_who_came_and_who_left() -> None:
    """And false when there is none."""
    found = Difference.between("zone:A", {"a": "ada", "b": "eve"}, {"b": "eve", "c": ""})
    assert found
    assert (found.joined, found.left) == ({"c": ""}, {"a": "ada"})
    assert not Difference.between("zone:A", {"a": "ada"}, {"a": "ada"})
