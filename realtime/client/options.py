"""The bounds of a watch, each with its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How patient a watch is, and how much it keeps.

    Attributes:
        connect_timeout_s: How long one attempt to connect may take.
        answer_timeout_s: How long the answer to a command may take.
        backoff_min_s: The pause after the first failed attempt; each next one is twice as long.
        backoff_max_s: The longest pause. Each is shortened at random, by up to a half, so that
            clients of a service that comes back don't come all at once.
        silence_s: How long after an expected ping a connection counts as dead.
        resubscribe_s: The pause before a zone is asked for again that was refused for the moment.
        catch_up_wait_s: How long zones that are ready wait for those that are not, so that they
            are seen to change together.
        queue_max_events: Events of changes, and users of states, that wait to be taken. Beyond
            that they are summed up in states: see `Replaced.reason`.
        max_message_bytes: The longest message that is read.
        max_commands_per_message: Zones that are subscribed in one message.
    """

    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 20.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 5.0
    silence_s: float = 10.0
    resubscribe_s: float = 0.5
    catch_up_wait_s: float = 2.0
    queue_max_events: int = 10_000
    max_message_bytes: int = 64 * 1024 * 1024
    max_commands_per_message: int = 200
