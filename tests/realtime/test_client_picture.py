"""The client's picture: what the service says, and what is then seen where. No I/O."""

from __future__ import annotations

import pytest

from channels.positions import Position
from realtime.client import Changed, Gone, Replaced, Status, ZoneRefusedError
from realtime.client.errors import LostChangesError
from realtime.client.zone import WatchedZone
from tests.realtime.client_messages import (
    Conversation,
    a_body,
    a_publication,
    a_state,
    a_user,
    entered,
    left,
    publication,
    push,
    resumed_reply,
    state_reply,
)


def watching(*states: tuple[str, list[int]]) -> Conversation:
    """Make a conversation whose zones are known."""
    conversation = Conversation(*(zone_id for zone_id, _ in states))
    commands = conversation.connect()
    conversation.say(
        *(
            state_reply(command, a_state(zone_id, *(a_user(id_, zone_id=zone_id) for id_ in ids)))
            for command, (zone_id, ids) in zip(commands, states, strict=True)
        )
    )
    return conversation


def test_states_come_as_one_update_and_then_the_picture_is_live() -> None:
    """Nothing is told before the last of the replies."""
    conversation = Conversation("A", "B")
    first, second = conversation.connect()
    assert first["subscribe"] == {"channel": "zone:A"}
    assert conversation.say(state_reply(first, a_state("A", a_user(1)))) == []
    updates = conversation.say(state_reply(second, a_state("B")))
    assert [type(update) for update in updates] == [Status, Replaced]
    assert updates[0] == Status("live")
    assert updates[1].zone_ids == ("A", "B")
    assert conversation.users() == {"A": [1], "B": []}


def test_a_transaction_over_two_zones_is_one_change() -> None:
    """And the mover is in one of them before and after."""
    conversation = watching(("A", [1]), ("B", []))
    (change,) = conversation.say(
        push("A", 2, left(1, 2), tx="t"),
        push("B", 2, entered(a_user(1, version=2)), tx="t"),
    )
    assert isinstance(change, Changed)
    assert (change.tx, change.zone_ids) == ("t", ("A", "B"))
    assert conversation.users() == {"A": [], "B": [1]}


def test_two_transactions_of_one_frame_are_two_changes() -> None:
    """In their order."""
    conversation = watching(("A", [1]), ("B", []))
    updates = conversation.say(
        push("A", 2, left(1, 2)), push("A", 3, entered(a_user(1, version=3)))
    )
    assert [update.tx for update in updates if isinstance(update, Changed)] == ["t2", "t3"]


def test_a_resumed_connection_asks_from_its_positions_and_joins_the_parts_again() -> None:
    """The missed part of each zone comes in a reply of its own; the change is one."""
    conversation = watching(("A", [1]), ("B", []))
    (status,) = conversation.picture.lost()
    assert isinstance(status, Status)
    assert (status.state, status.since_ms is not None) == ("connecting", True)
    first, second = conversation.connect()
    assert first["subscribe"] == {
        "channel": "zone:A",
        "recover": True,
        "epoch": "e1",
        "offset": 1,
    }
    assert conversation.say(resumed_reply(first, 2, publication(2, left(1, 2), tx="t"))) == []
    assert conversation.users() == {"A": [1], "B": []}
    missed = publication(2, entered(a_user(1, version=2)), tx="t")
    live, change = conversation.say(resumed_reply(second, 2, missed))
    assert isinstance(change, Changed)
    assert change.zone_ids == ("A", "B")
    assert live == Status("live")
    assert conversation.picture.resumed == 2


def test_what_was_held_back_when_the_connection_broke_is_asked_for_again() -> None:
    """Nothing of it is lost, nothing comes twice."""
    conversation = watching(("A", []), ("B", []))
    conversation.picture.lost()
    first, _ = conversation.connect()
    conversation.say(resumed_reply(first, 2, publication(2, entered(a_user(1)))))
    conversation.picture.lost()
    first, second = conversation.connect()
    assert first["subscribe"]["offset"] == 1
    updates = conversation.say(
        resumed_reply(first, 2, publication(2, entered(a_user(1)))), resumed_reply(second, 1)
    )
    assert [type(update) for update in updates] == [Status, Changed]


def test_a_user_known_elsewhere_by_a_newer_version_is_shown_only_there() -> None:
    """B's state is from after the move, A's from before it."""
    conversation = Conversation("A", "B")
    first, second = conversation.connect()
    conversation.say(
        state_reply(first, a_state("A", a_user(1, version=3), a_user(2))),
        state_reply(second, a_state("B", a_user(1, version=4, zone_id="B"))),
    )
    assert conversation.users() == {"A": [2], "B": [1]}
    assert conversation.picture.zones["A"].digest().startswith("2-")
    conversation.say(push("A", 2, left(1, 4)))
    assert conversation.users() == {"A": [2], "B": [1]}
    conversation.say(
        push("B", 2, left(1, 5), tx="t"), push("A", 3, entered(a_user(1, version=5)), tx="t")
    )
    assert conversation.users() == {"A": [1, 2], "B": []}


def test_who_left_by_a_newer_version_is_not_shown_where_an_older_one_stands() -> None:
    """B's user went on to a zone that isn't watched, A has yet to hear of the first move."""
    conversation = Conversation("A", "B")
    first, second = conversation.connect()
    conversation.say(
        state_reply(first, a_state("A", a_user(1, version=3))),
        state_reply(second, a_state("B", a_user(1, version=4, zone_id="B"))),
    )
    conversation.say(push("B", 2, left(1, 5)))
    assert conversation.users() == {"A": [], "B": []}
    conversation.say(push("A", 2, left(1, 4)))
    conversation.say(push("A", 3, entered(a_user(1, version=6))))
    assert conversation.users() == {"A": [1], "B": []}


def test_in_another_history_versions_begin_anew() -> None:
    """A restored database has the user with a lower version elsewhere."""
    conversation = watching(("A", []), ("B", []))
    conversation.say(push("A", 2, entered(a_user(1, version=9))))
    conversation.picture.lost()
    _, second = conversation.connect()
    conversation.say(
        state_reply(second, a_state("B", a_user(1, version=2, zone_id="B"), epoch="e2"))
    )
    (replaced,) = conversation.picture.release()
    assert isinstance(replaced, Replaced)
    assert replaced.reason == "renewed"
    assert conversation.users() == {"A": [], "B": [1]}


def test_a_zone_that_is_ready_need_not_wait_for_ever() -> None:
    """`release` shows what is there."""
    conversation = Conversation("A", "B")
    first, _ = conversation.connect()
    conversation.say(state_reply(first, a_state("A", a_user(1))))
    assert conversation.picture.is_holding_back
    (replaced,) = conversation.picture.release()
    assert replaced.zone_ids == ("A",)
    assert conversation.picture.status.state == "catching_up"
    (change,) = conversation.say(push("A", 2, left(1, 2)))
    assert change.zone_ids == ("A",)
    assert not conversation.picture.is_holding_back


def test_a_missing_change_is_a_fault_and_what_came_before_it_is_told() -> None:
    """The connection is given up; the positions are right for the next one."""
    conversation = watching(("A", []), ("B", []))
    updates = conversation.say(
        push("B", 2, entered(a_user(2, zone_id="B"))), push("A", 3, entered(a_user(1)))
    )
    assert [update.zone_ids for update in updates] == [("B",)]
    assert isinstance(conversation.picture.fault, LostChangesError)
    assert conversation.picture.zones["A"].position == Position("e1", 1)


def test_invalidated_state_is_shown_until_the_new_one_is_there() -> None:
    """And asked for without a position."""
    conversation = watching(("A", [1]))
    invalidated = {"code": 2502, "reason": "state invalidated"}
    conversation.say({"push": {"channel": "zone:A", "unsubscribe": invalidated}})
    (command,) = conversation.commands()
    assert command["subscribe"] == {"channel": "zone:A"}
    assert conversation.users() == {"A": [1]}
    _, replaced = conversation.say(state_reply(command, a_state("A", a_user(2), rev=9)))
    assert isinstance(replaced, Replaced)
    assert replaced.reason == "renewed"
    assert conversation.users() == {"A": [2]}


def test_a_wrong_digest_keeps_the_old_picture_and_asks_anew() -> None:
    """What is shown is what was last right."""
    conversation = watching(("A", [1]))
    conversation.picture.lost()
    (command,) = conversation.connect()
    state = a_state("A", a_user(2), rev=9) | {"digest": "1-00000000"}
    conversation.say(state_reply(command, state))
    assert isinstance(conversation.picture.fault, LostChangesError)
    conversation.picture.lost()
    assert conversation.users() == {"A": [1]}
    (command,) = conversation.connect()
    assert command["subscribe"] == {"channel": "zone:A"}


@pytest.mark.parametrize("code", [2000, 2001, 2499])
def test_the_end_of_a_zone_is_told_and_empties_it(code: int) -> None:
    """Deleted, not granted any more, or what a newer service has: it is not asked for again."""
    conversation = watching(("A", [1]), ("B", [2]))
    end = {"code": code, "reason": "why"}
    (gone,) = conversation.say({"push": {"channel": "zone:A", "unsubscribe": end}})
    assert gone == Gone("A", code, "why")
    assert conversation.commands() == []
    assert conversation.picture.zones["A"].is_gone
    assert conversation.users() == {"A": [], "B": [2]}
    conversation.picture.lost()
    assert [command["subscribe"]["channel"] for command in conversation.connect()] == ["zone:B"]


def test_a_refusal_is_final_for_a_zone_named_at_the_beginning_only() -> None:
    """A zone added later is told as gone."""
    conversation = Conversation("A")
    conversation.picture.add("B")
    first, second = conversation.connect()
    error = {"code": 102, "message": "unknown channel"}
    *_, gone = conversation.say(
        state_reply(first, a_state("A")), {"id": second["id"], "error": error}
    )
    assert gone == Gone("B", 102, "unknown channel")
    conversation = Conversation("A")
    (command,) = conversation.connect()
    with pytest.raises(ZoneRefusedError, match="zone A: unknown channel"):
        conversation.say({"id": command["id"], "error": error})


def test_a_zone_that_ended_may_be_added_again_and_refused() -> None:
    """Also one that was named at the beginning: the others go on."""
    conversation = watching(("A", [1]), ("B", [2]))
    end = {"code": 2001, "reason": "permission revoked"}
    conversation.say({"push": {"channel": "zone:A", "unsubscribe": end}})
    conversation.picture.add("A")
    (command,) = conversation.commands()
    error = {"code": 103, "message": "permission denied"}
    *_, gone = conversation.say({"id": command["id"], "error": error})
    assert gone == Gone("A", 103, "permission denied")
    assert conversation.users() == {"A": [], "B": [2]}


def test_a_refusal_for_the_moment_is_asked_again() -> None:
    """Until then the picture is not live."""
    conversation = Conversation("A")
    (command,) = conversation.connect()
    error = {"code": 100, "message": "internal server error", "temporary": True}
    conversation.say({"id": command["id"], "error": error})
    assert conversation.picture.status.state == "catching_up"
    (zone,) = conversation.later
    conversation.picture.subscribe_again(zone)
    (command,) = conversation.commands()
    conversation.say(state_reply(command, a_state("A")))
    assert conversation.picture.status == Status("live")


def test_what_a_new_connection_has_asked_for_is_not_asked_again() -> None:
    """The service would say that it is subscribed already."""
    conversation = Conversation("A")
    (command,) = conversation.connect()
    error = {"code": 100, "message": "internal server error", "temporary": True}
    conversation.say({"id": command["id"], "error": error})
    conversation.picture.lost()
    (command,) = conversation.connect()
    conversation.say(state_reply(command, a_state("A")))
    (zone,) = conversation.later
    conversation.picture.subscribe_again(zone)
    assert conversation.commands() == []


def test_stale_is_told_with_its_beginning_and_over_a_lost_connection() -> None:
    """What was stale when the connection broke is as old as that."""
    conversation = watching(("A", []))
    stale = {"push": {"message": {"data": {"state": "stale", "since": 7}}}}
    assert conversation.say(stale) == [Status("stale", 7)]
    assert conversation.picture.lost() == [Status("connecting", 7)]


def test_a_removed_zone_is_unsubscribed_and_what_still_comes_is_ignored() -> None:
    """Also when it is added again at once, with a minimum."""
    conversation = watching(("A", [1]))
    conversation.picture.remove("A")
    conversation.picture.add("A", Position("e1", 2))
    assert conversation.say(push("A", 2, left(1, 2))) == [Status("catching_up")]
    unsubscribe, subscribe = conversation.commands()
    assert unsubscribe["unsubscribe"] == {"channel": "zone:A"}
    assert subscribe["subscribe"] == {"channel": "zone:A", "data": {"min": "e1:2"}}
    conversation.say(state_reply(subscribe, a_state("A", rev=2)))
    assert conversation.users() == {"A": []}


def test_changes_are_merged_by_revision() -> None:
    """An old one is dropped, the next one applied, a later one is a loss."""
    zone = WatchedZone("A")
    zone.replace(a_body("A"))
    assert zone.take(a_publication(2, entered(a_user(1)))) is not None
    assert zone.take(a_publication(2, entered(a_user(1)))) is None
    with pytest.raises(LostChangesError):
        zone.take(a_publication(4, entered(a_user(1))))
    assert zone.position == Position("e1", 2)
    assert zone.digest().startswith("1-")


def test_events_of_unknown_types_are_ignored() -> None:
    """A newer service may have more of them."""
    zone = WatchedZone("A")
    zone.replace(a_body("A"))
    change = zone.take(a_publication(2, {"type": "waved", "user_id": 1}, entered(a_user(1))))
    assert change is not None
    assert len(change.events) == 1
    assert list(zone.users) == [1]
