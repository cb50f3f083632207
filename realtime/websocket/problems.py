"""What a command that fails is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from channels.feed import UnknownChannelError
from channels.names import InvalidChannelError
from channels.ports import UnavailableError
from realtime.channel_history import UnrecoverableError
from realtime.presence import TooManyWaitingError
from realtime.websocket.centrifuge_codec import Problem
from realtime.websocket.guest import ProblemError

_PROBLEMS: Final[Mapping[type[Exception], Problem]] = {
    msgspec.DecodeError: Problem.BAD_REQUEST,
    RecursionError: Problem.BAD_REQUEST,
    InvalidChannelError: Problem.UNKNOWN_CHANNEL,
    UnknownChannelError: Problem.UNKNOWN_CHANNEL,
    UnrecoverableError: Problem.UNRECOVERABLE,
    UnavailableError: Problem.INTERNAL,
    TooManyWaitingError: Problem.TOO_MANY_REQUESTS,
}
ANSWERABLE: Final[tuple[type[Exception], ...]] = (*_PROBLEMS, ProblemError)
"""What a command that fails is answered with a problem for; anything else ends its session."""


def problem_of(error: Exception) -> Problem:
    """Return the problem of an error of `ANSWERABLE`."""
    if isinstance(error, ProblemError):
        return error.problem
    return next(problem for kind, problem in _PROBLEMS.items() if isinstance(error, kind))
