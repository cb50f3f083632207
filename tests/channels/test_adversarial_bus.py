"""Whatever bus, database and clients do: what is promised holds, and all end in the truth.

Random programs run against the real rules in a virtual time. By default they are always the
same ones. `ZONECAST_TEST_EXAMPLES=20000` with `--timeout 0` runs so many from a random seed, or
from that of `--hypothesis-seed=N`; a failure prints the program, shrunk, to be given to `play`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.channels.adversary import Fate
from tests.channels.program import Step, play

EXAMPLES: Final = int(os.environ.get("ZONECAST_TEST_EXAMPLES", "0"))

NOW = Fate((0,))
PROLOGUE: Final[Sequence[Step]] = (
    ("commit", 2, [(1, 1), (2, 2), (3, 0)], [NOW]),
    ("join", 0, 0, [0, 1, 4], -1),
    ("join", 1, 1, [0, 1, 3], -1),
    ("wait", 10),
)
"""Something to see, and somebody who looks."""
FATES = st.sampled_from(
    [
        NOW,
        Fate(()),
        Fate((20,)),
        Fate((0, 80)),
        Fate((0,), is_oversize=True),
        Fate((200,)),
        Fate((3,)),
        Fate((1_500,)),
        Fate((100,), is_oversize=True),
    ]
)
WRITERS = st.sampled_from([2, 2, 0, 1])
NODES = st.integers(0, 1)
NUMBERS = st.integers(0, 3)
CHANNEL_NUMBERS = st.sampled_from([0, 1, 0, 1, 2, 3, 4, 5])
VIEWERS = st.sampled_from([0, 0, 1, 2])
MOVES = st.lists(st.tuples(st.integers(1, 3), NUMBERS), min_size=1, max_size=4)
WAYS = st.lists(FATES, min_size=1, max_size=4)
PATIENCE = st.sampled_from([-1, -1, 0, 1, 20, 100])
JOINED = st.lists(CHANNEL_NUMBERS, min_size=1, max_size=4, unique=True)
PACES = st.lists(
    st.sampled_from([(0, 0), (5, 0), (0, 30), (100, 0), (0, 120)]), min_size=1, max_size=3
)
SOON = st.sampled_from([0, 5, 50, 400, 1_200])
SPELLS = st.sampled_from([20, 300, 1_000, 3_500, 7_000])
COMMITS = st.tuples(st.just("commit"), WRITERS, MOVES, WAYS)
LIFE = st.one_of(
    st.tuples(st.just("delete"), WRITERS, NUMBERS, NUMBERS, WAYS),
    st.tuples(st.just("create"), WRITERS, MOVES, WAYS),
    st.tuples(st.just("create"), WRITERS, MOVES, WAYS),
    st.tuples(st.just("rename"), WRITERS, NUMBERS, WAYS),
)
TROUBLE = st.one_of(
    st.tuples(st.just("compact"), CHANNEL_NUMBERS, st.integers(0, 3)),
    st.sampled_from([("renew",), ("restart",)]),
    st.tuples(st.sampled_from(["restore", "rewind"]), st.integers(0, 5)),
    st.tuples(st.just("database_down"), SPELLS),
    st.tuples(st.just("pace"), PACES),
    st.tuples(st.just("bus_down"), NODES, SPELLS),
)
VISITS = st.one_of(
    st.tuples(st.just("join"), VIEWERS, NODES, JOINED, PATIENCE),
    st.tuples(st.just("unsubscribe"), VIEWERS, NUMBERS),
    st.tuples(st.just("swap"), VIEWERS, CHANNEL_NUMBERS),
    st.tuples(st.just("leave"), VIEWERS, st.booleans(), NODES, SOON),
    st.tuples(st.just("congest"), VIEWERS, SPELLS),
    st.tuples(st.just("refuse"), VIEWERS),
    st.tuples(st.just("read"), NODES, CHANNEL_NUMBERS),
    st.tuples(st.just("poll"), NODES, CHANNEL_NUMBERS, st.sampled_from([0, 100, 3_000])),
)
WAITS = st.tuples(st.just("wait"), st.sampled_from([0, 1, 10, 60, 300, 1_500]))
STEPS = st.one_of(
    WAITS, COMMITS, COMMITS, COMMITS, VISITS, VISITS, LIFE, TROUBLE, WAITS, st.just(("settle",))
)
PROGRAMS = st.lists(st.lists(STEPS, min_size=3, max_size=12), min_size=1, max_size=9)
"""Lists of lists: they are longer on average than one list would be."""


@given(PROGRAMS)
@settings(
    max_examples=EXAMPLES or 500,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_whatever_happens_the_promises_hold_and_everybody_ends_in_the_truth(
    program: list[list[Step]],
) -> None:
    """Ordered, gapless, unique, atomic, consistent, resumable, convergent; nothing leaks."""
    play([*PROLOGUE, *chain.from_iterable(program)])
