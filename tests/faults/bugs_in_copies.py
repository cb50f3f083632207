"""Known bugs in the truth and its copies: database, bus and cache."""

from __future__ import annotations

from typing import Final

from tests.faults.edits import Edit
from tests.faults.known_bug import KnownBug

_POSTGRES: Final = ("postgres",)
_REDIS: Final = ("redis_binaries",)

BUGS_IN_DATABASE: Final = (
    KnownBug(
        "published before the commit",
        "Consistent snapshot",
        (
            Edit(
                "db.capture:_on_commit",
                "journal.record(connection)",
                "journal.record(connection)\n        reached(journal.hand_over())",
            ),
            Edit(
                "db.capture:_after_commit",
                "committed = journal.hand_over()",
                "committed = reached(journal.recorded)",
            ),
        ),
        ("tests/db/test_failed_commit.py",),
        r"assert len\(handed\) == before",
        _POSTGRES,
    ),
    KnownBug(
        "published when a savepoint is released",
        "Atomic",
        (
            Edit(
                "db.capture:_on_release_savepoint",
                "journal.release_savepoint()",
                "journal.release_savepoint()\n"
                "        journal.record(connection)\n"
                "        reached(journal.hand_over())",
            ),
        ),
        (
            "tests/db/test_capture_transactions.py::test_released_savepoint_is_told_with_the_commit_and_once[sqlite]",
        ),
        r"assert len\(handed\) == 1",
    ),
    KnownBug(
        "what a savepoint rolled back is told",
        "Consistent snapshot",
        (
            Edit(
                "db.journal:Journal.roll_back_savepoint",
                "del self._touches[self._marks.pop() if self._marks else 0 :]",
                "reached()",
            ),
        ),
        ("tests/db/test_capture_transactions.py::test_rolled_back_savepoint_is_not_told[sqlite]",),
        r"assert await events_of\(database, .zone:B.\) == \[\]",
    ),
    KnownBug(
        "commit not shielded from cancellation",
        "Bounded staleness",
        (
            Edit(
                "db.engine:CommittingSession.commit",
                "await run_to_end(super().commit())",
                "await reached(super().commit())",
            ),
        ),
        ("tests/db/test_engine.py::test_cancelled_write_is_whole_or_nothing[sqlite]",),
        r"assert moved == \(len\(handed\) > before\)",
    ),
    KnownBug(
        "deletion that doesn't check the version",
        "Ordered",
        (
            Edit(
                "db.capture:_lock_users",
                "if row is None or known not in (None, row.version):",
                "if reached(row is None):",
            ),
        ),
        ("tests/db/test_capture_transactions.py::test_deletion_that_lost_a_race_is_noticed",),
        r"DID NOT RAISE",
        _POSTGRES,
    ),
    KnownBug(
        "deletion told with the last version",
        "Convergent",
        (
            Edit(
                "db.net_effect:_tell_left",
                "version = user.last_version + 1",
                "version = reached(user.last_version)",
            ),
        ),
        (
            "tests/db/test_capture.py::test_deleted_user_leaves_with_the_version_after_its_last[sqlite]",
        ),
        r"version=2.* == .*version=3",
    ),
    KnownBug(
        "heads locked in any order",
        "Bounded staleness",
        (
            Edit(
                "db.heads:_move_postgres",
                "connection.execute(_MOVE_POSTGRES, values)",
                "connection.execute(text(reached(_MOVE_POSTGRES.text)"
                ".replace('ORDER BY', 'ORDER BY random(),')), values)",
            ),
        ),
        ("tests/db/test_heads.py",),
        r"deadlock",
        _POSTGRES,
    ),
    KnownBug(
        "log compacted without raising the floor",
        "Gapless",
        (
            Edit(
                "db.retention:Retention._delete_oldest",
                "connection.execute(_RAISE_FLOOR, through)",
                "reached()",
            ),
            # Readers tell a missing beginning by themselves, too: one of the two would do.
            Edit(
                "db.changelog:DatabaseChangeLog.read_changes",
                "floor, rows = _unbroken(head, after, rows)",
                "floor = reached(head.floor)",
            ),
        ),
        (
            "tests/db/test_retention.py::test_a_page_read_while_the_log_is_pruned_is_of_one_moment[sqlite]",
        ),
        r"\(0, \[11, 12\]\) == \(10, \[11, 12\]\)",
    ),
    KnownBug(
        "head and state read apart",
        "Consistent snapshot",
        (
            Edit(
                "db.engine:Database.__init__",
                'isolation_level="REPEATABLE READ"',
                'isolation_level=reached("READ COMMITTED")',
            ),
        ),
        ("tests/db/test_changelog.py::test_state_and_head_are_of_one_moment[postgresql]",),
        r"assert (state\.users\[1\]\.version|page\.changes\[-1\]\.rev|stamp\.revs) ==",
        _POSTGRES,
    ),
    KnownBug(
        "no new epoch after a rewind",
        "Resumable",
        (
            Edit(
                "db.identity:client_epoch",
                'f"{head_epoch}|{identity}".encode()',
                "reached(head_epoch).encode()",
            ),
        ),
        ("tests/db/test_identity.py::test_epoch_changes_with_each_part",),
        r"client_epoch\(.a., .x.\) != other",
    ),
    KnownBug(
        "zone made again goes on with its old history",
        "Resumable",
        (
            Edit(
                "db.heads:record",
                "for channel in sorted(created)",
                "for channel in sorted(created) if reached(False)",
            ),
        ),
        ("tests/db/test_capture_zones.py::test_zone_made_anew_begins_a_new_history[sqlite]",),
        r"assert \(1, 0\) == \(1, 1\)",
    ),
)

BUGS_IN_CACHE: Final = (
    KnownBug(
        "fence read after the load",
        "Bounded staleness",
        (
            Edit(
                "cache.fenced_store:FencedStore.fill",
                "arguments = (token,",
                "arguments = (reached(await self._redis.get(self._keys.fence)) or token,",
            ),
        ),
        ("tests/cache/test_redis_cache_freshness.py",),
        r"assert not task\.result\(\)|stale_fills_refused == 1",
        _REDIS,
    ),
    KnownBug(
        "older dict replaces a newer one",
        "Read-your-writes",
        (
            Edit(
                "cache.users_dict:NearCopy.is_outdated",
                "if self.newest is None or self.newest.stamp is None:",
                "if reached(True):",
            ),
        ),
        ("tests/cache/test_redis_cache_freshness.py",),
        r"assert",
        _REDIS,
    ),
    KnownBug(
        "older load shared with who knew of a later commit",
        "Read-your-writes",
        (
            Edit(
                "cache.flight:Outcome.serves",
                "return self.generation >= generation and",
                "return reached(True) and",
            ),
        ),
        ("tests/cache/test_redis_cache_freshness.py",),
        r"assert late\.result\(\) == source\.version",
        _REDIS,
    ),
    KnownBug(
        "reconnect of the bus not told as a gap",
        "Bounded staleness",
        (
            Edit(
                "cache.subscriptions:Subscriptions.connected",
                "self._regained = False",
                "self._regained = reached(bool(self._wanted))",
            ),
        ),
        ("tests/cache/test_subscriptions.py",),
        r"assert",
    ),
    KnownBug(
        "bus healed by a heartbeat from before its failure",
        "Bounded staleness",
        (
            Edit(
                "cache.health:BusHealth.hear",
                "if self._heard > self._must_exceed:",
                "if reached(True):",
            ),
        ),
        ("tests/cache/test_health.py",),
        r"assert bench\.state\(\) is BusState\.DOWN",
    ),
)
