"""Admission: streams and waiting requests become connections of the node, or a problem."""

from __future__ import annotations

from typing import Final

from realtime.api.problems import Kind, ProblemError
from realtime.connections import Card, Connection
from realtime.limits import Refusal
from realtime.node import Node

_PROBLEMS: Final = {
    Refusal.STOPPING: (Kind.OVERLOADED, "this node is about to stop"),
    Refusal.NODE: (Kind.OVERLOADED, "this node takes no more connections"),
    Refusal.ADDRESS: (Kind.TOO_MANY_CONNECTIONS, "this address has all the connections it may"),
    Refusal.SUBJECT: (Kind.TOO_MANY_CONNECTIONS, "this subject has all the connections it may"),
}


def admit(node: Node, connection: Connection, card: Card) -> None:
    """Take a connection in; whoever calls this removes it at its end.

    Raises:
        ProblemError: there is no room for it.
    """
    refusal = node.connections.admit(connection, card)
    if refusal is not None:
        node.limits.refused(refusal)
        raise ProblemError(*_PROBLEMS[refusal])


def begin_subscriptions(node: Node, channels: int) -> None:
    """Count subscriptions that a stream is about to begin.

    Raises:
        ProblemError: too many begin on the node.
    """
    if not node.limits.may_subscribe(channels):
        raise ProblemError(Kind.OVERLOADED, "too many subscriptions begin at once")
