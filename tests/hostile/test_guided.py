"""What guided fuzzing begins with, and what it found once, holds in every run of the tests."""

from __future__ import annotations

import random

import pytest

from tests.guided.targets import TARGETS

CASES = [pytest.param(target, seeds, id=name) for name, (target, seeds) in sorted(TARGETS.items())]
MUTANTS = 300


@pytest.mark.parametrize(("target", "seeds"), CASES)
def test_readers_of_foreign_bytes_stand_whatever_comes(target, seeds) -> None:  # type: ignore[no-untyped-def]
    """Seeds, and some hundred that differ from them in a few bytes."""
    chance = random.Random(7)  # noqa: S311 - no secret
    for seed in seeds:
        target(seed)
        for _ in range(MUTANTS):
            mutant = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(mutant) + 1)
                mutant[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            target(bytes(mutant))
