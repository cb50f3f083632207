"""Known bugs in the rules of synchronisation."""

from __future__ import annotations

from typing import Final

from tests.faults.edits import Edit
from tests.faults.known_bug import KnownBug

_ADVERSARY: Final = ("tests/channels/test_adversarial_bus.py",)

BUGS_IN_CHANNELS: Final = (
    KnownBug(
        "snapshot read before the bus confirmed",
        "Bounded staleness",
        (
            Edit(
                "channels.loads:Loads._load",
                """\
    await self._bus.subscribe(*(followed.channel for followed in batch))
    for followed in batch:
        while followed.is_repairing:
            await followed.moved()
    left = {followed.channel: followed for followed in batch}
    while left:
        async with self._slots:
            asked_s = asyncio.get_running_loop().time()
            states = await self._log.read_states(list(left))
""",
                """\
    for followed in batch:
        while followed.is_repairing:
            await followed.moved()
    left = {followed.channel: followed for followed in batch}
    while left:
        async with self._slots:
            asked_s = asyncio.get_running_loop().time()
            states = await self._log.read_states(list(left))
        reached(await self._bus.subscribe(*states))
""",
            ),
        ),
        ("tests/channels/test_snapshots.py",),
        r"screen\.users\[channel\] == state\.users",
    ),
    KnownBug(
        "heads never compared",
        "Bounded staleness",
        (
            Edit(
                "channels.head_checks:HeadChecks._compare",
                "if not self._follower.note_head(channel, position, heads.get(channel), asked_s):",
                "if reached(False):",
            ),
        ),
        _ADVERSARY,
        r"replicas converge",
    ),
    KnownBug(
        "staleness hidden while behind",
        "Bounded staleness",
        (Edit("channels.head_checks:HeadChecks._compare", "if not lagging:", "if reached(True):"),),
        (
            "tests/channels/test_staleness.py::test_heads_that_are_known_but_cannot_be_followed_are_stale",
        ),
        r"assert len\(screen\.staleness\) == 1",
    ),
    KnownBug(
        "gap skipped",
        "Gapless",
        (
            Edit(
                "channels.follower:Follower._offer",
                "            followed.keep(change)\n"
                "            followed.apply_waiting(self._applied)\n"
                "        if",
                "            replica.rev = reached(position.rev - 1)\n"
                "            followed.keep(change)\n"
                "            followed.apply_waiting(self._applied)\n"
                "        if",
            ),
        ),
        _ADVERSARY,
        r"the state at exactly its position",
    ),
    KnownBug(
        "echo applied twice",
        "Unique",
        (
            Edit(
                "channels.follower:Follower._offer",
                "self._observer.duplicate(followed.channel)",
                "_ = change is None or self._tell_applied(reached(change))",
            ),
        ),
        _ADVERSARY,
        r"ordered, gapless, unique",
    ),
    KnownBug(
        "resume off by one",
        "Resumable",
        (
            Edit(
                "channels.replica:Replica.changes_after",
                "islice(self._recent, rev - self.oldest_resumable_rev, None)",
                "islice(self._recent, reached(rev - self.oldest_resumable_rev + 1), None)",
            ),
        ),
        ("tests/channels/test_feed.py::test_a_resume_gets_just_the_missed_changes",),
        r"assert \[3\] == \[2, 3\]",
    ),
    KnownBug(
        "resume answered from another epoch",
        "Resumable",
        (
            Edit(
                "channels.resume:missed_changes",
                "since.epoch != replica.epoch or",
                "reached(False) or",
            ),
        ),
        ("tests/channels/test_snapshots.py",),
        r"assert foreign\.starts\[0\]\.changes is None",
    ),
    KnownBug(
        "rewound head believed to be old news",
        "Convergent",
        (
            Edit(
                "channels.repairs:Repairs.note_head",
                "elif head.rev < seen.rev:",
                "elif reached(False):",
            ),
        ),
        _ADVERSARY,
        r"replicas converge .* e1:1 .* e1:0",
    ),
    KnownBug(
        "frame split across channels",
        "Atomic",
        (
            Edit(
                "channels.transactions:split_ready",
                "if not any(change.parts for change in queue):",
                "if reached(True):",
            ),
        ),
        _ADVERSARY,
        r"one transaction, one frame",
    ),
    KnownBug(
        "slow client dropped silently",
        "Gapless",
        (
            Edit(
                "channels.hub:Hub._serve",
                "self._fall_behind(subscriber)",
                "reached()",
            ),
        ),
        ("tests/channels/test_slow_subscribers.py",),
        r"assert len\(slow\.frames\) == 1",
    ),
    KnownBug(
        "held part forgotten when slow",
        "Gapless",
        (
            Edit(
                "channels.hub:Hub._hold",
                "self._cursors_before(subscriber, first)",
                "self._cursors_before(subscriber, reached({}))",
            ),
        ),
        ("tests/channels/test_slow_subscribers.py",),
        r"ordered, gapless and unique",
    ),
    KnownBug(
        "snapshot of an older picture",
        "Consistent snapshot",
        (Edit("channels.replica:Replica.apply", "self._snapshot = None", "reached()"),),
        ("tests/channels/test_snapshots.py",),
        r"assert snapshot\.body == encode_state\(state\)",
    ),
    KnownBug(
        "digest of an older picture",
        "Convergent",
        (Edit("channels.replica:Replica.apply", "self._digest = None", "reached()"),),
        ("tests/channels/test_snapshots.py",),
        r"replica\.digest\(\) == digest_state\(state\)",
    ),
    KnownBug(
        "minimum position ignored",
        "Read-your-writes",
        (Edit("channels.minima:Minima.held_at", "minimum is not None:", "reached(False):"),),
        _ADVERSARY,
        r"never older than asked for",
    ),
    KnownBug(
        "batches published in reverse",
        "Ordered",
        (
            Edit(
                "channels.publisher:Publisher.run",
                "await self._bus.publish(batch)",
                "await self._bus.publish(reached(batch[::-1]))",
            ),
        ),
        ("tests/channels/test_publisher.py",),
        r"\['t3', 't2'\]",
    ),
)
