"""Repairs: how a replica is brought to the database's head when the bus did not do it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass

from channels.changes import Change, ChangePage, ChannelState
from channels.encoded_users import EncodedUsers
from channels.followed import Followed
from channels.ports import ChangeLog, Observer, UnavailableError
from channels.positions import Position
from channels.replica import Replica
from channels.subscribers import EndReason


@dataclass(frozen=True, slots=True)
class FollowerConfig:
    """The bounds of following.

    Attributes:
        resume_max_changes: Changes remembered per channel, and the farthest that a replica
            is brought forward by changes rather than read anew.
        gap_wait_s: How long a newer change waits for its elders before the log is read.
        linger_s: How long a channel is followed after its last watcher left.
        repair_max_concurrent: How many reads of the log or of states run at once.
    """

    resume_max_changes: int = 300
    gap_wait_s: float = 0.05
    linger_s: float = 5
    repair_max_concurrent: int = 8


class Repairs:
    """Reads of the log, and of states anew, one at a time for each channel.

    Attributes:
        slots: Bounds how many questions to the log run at once, those of loads included.

    Args:
        log: The truth.
        observer: Told of repairs.
        config: The bounds.
        tasks: Owns the reads; ending it ends them.
        applied: Told of each change right after its replica applied it. Never raises.
        ended: Told, before a replica is read anew or dropped, why its watchers must go.
        taken: Told of each replica that was read for the first time.
    """

    def __init__(
        self,
        log: ChangeLog,
        observer: Observer,
        config: FollowerConfig,
        *,
        tasks: asyncio.TaskGroup,
        applied: Callable[[Change], None],
        ended: Callable[[str, EndReason], None],
        taken: Callable[[Followed], None],
    ) -> None:
        self._log = log
        self._observer = observer
        self._config = config
        self._tasks = tasks
        self._applied = applied
        self._ended = ended
        self._taken = taken
        self.slots = asyncio.Semaphore(config.repair_max_concurrent)
        self._is_over = False

    def stop(self) -> None:
        """Begin no repair any more: the tasks that they would be have no owner now."""
        self._is_over = True

    def note_head(
        self, followed: Followed, seen: Position, head: Position | None, asked_s: float
    ) -> None:
        """Compare a head just read from the database with where the replica was before.

        Args:
            followed: The channel.
            seen: The replica's position when the question was sent.
            head: The answer; `None`: the channel has no head.
            asked_s: When the question was sent (monotonic).
        """
        if followed.replica is None:
            return
        replica = followed.replica
        if replica.epoch != seen.epoch:
            return
        followed.verified_s = asked_s
        if head is None or head.epoch != replica.epoch:
            self._begin(followed, "epoch")
        elif head.rev < seen.rev:
            self._begin(followed, "rewound")
        elif head.rev > replica.rev:
            followed.known_rev = max(followed.known_rev, head.rev)
            self.begin_soon(followed, "head", self._config.gap_wait_s)

    def begin_soon(self, followed: Followed, cause: str, wait_s: float) -> None:
        """Read the log unless the bus brings what is missing before that."""
        if followed.is_gone or followed.is_forgotten:
            return  # Nothing follows, or nobody: this would go on for ever.
        if followed.repair_at is None and not followed.is_repairing:
            loop = asyncio.get_running_loop()
            followed.repair_at = loop.call_later(
                wait_s, self._begin_if_stuck, followed, cause, followed.applied_rev
            )

    def _begin_if_stuck(self, followed: Followed, cause: str, applied_rev: int) -> None:
        followed.repair_at = None
        if not followed.is_behind:
            return
        if followed.applied_rev == applied_rev:
            self._begin(followed, cause)
        else:
            # What was missing has come. What is missing now has not waited as long yet.
            self.begin_soon(followed, cause, self._config.gap_wait_s)

    def _begin(self, followed: Followed, cause: str) -> None:
        # A read of the state that is under way finds all that a repair could: of two answers
        # the older might come last.
        is_busy = followed.is_repairing or followed.loading is not None
        if not is_busy and not followed.is_forgotten and not self._is_over:
            followed.is_repairing = True
            self._tasks.create_task(self._repair(followed, cause))

    async def _repair(self, followed: Followed, cause: str) -> None:
        """Bring one replica to the head, by changes where they are retained, else anew."""
        failed = True
        try:
            async with self.slots:
                why_anew: str | None = cause
                if cause not in {"epoch", "rewound"}:
                    why_anew = await self._repair_from_log(followed, cause)
                if why_anew is not None:
                    await self._read_anew(followed, why_anew)
            failed = False
        except Exception as error:  # noqa: BLE001 - a task boundary
            # The next comparison of heads finds the channel behind and tries again.
            self._observer.failed(f"repair of {followed.channel}", error)
        finally:
            followed.is_repairing = False
            followed.wake()
        if followed.is_behind and not failed:
            self.begin_soon(followed, "gap", self._config.gap_wait_s)

    async def _repair_from_log(self, followed: Followed, cause: str) -> str | None:
        """Apply what the log retains after the replica, page by page.

        Returns:
            Why the state must be read anew; `None`: it needn't.
        """
        replica = followed.replica
        limit = self._config.resume_max_changes
        while replica is not None and not followed.is_gone:
            asked_rev, heard = replica.rev, list(followed.waiting)
            page = await self._log.read_changes(followed.channel, asked_rev, limit)
            if followed.is_forgotten:
                return None
            why_anew = self._why_anew(replica, asked_rev, page)
            if page is None or why_anew is not None:
                return why_anew
            self._apply_page(followed, replica, page, heard)
            self._observer.repaired(followed.channel, cause, len(page.changes))
            if replica.rev >= page.head.rev:
                return None
            if replica.rev == asked_rev:
                break
        return cause

    def _why_anew(self, replica: Replica, asked_rev: int, page: ChangePage | None) -> str | None:
        """Tell why a page doesn't lead on from where the replica was when it was asked for."""
        if page is None or page.head.epoch != replica.epoch:
            return "epoch"
        if page.head.rev < asked_rev:
            return "rewound"
        is_far = page.head.rev - replica.rev > self._config.resume_max_changes
        return "compacted" if is_far or page.floor > replica.rev else None

    def _apply_page(
        self, followed: Followed, replica: Replica, page: ChangePage, heard: Iterable[int]
    ) -> None:
        for rev in heard:
            if rev > page.head.rev:
                # Heard of before the log was asked, which has no such change: it was rewound.
                followed.waiting.pop(rev, None)
        for change in page.changes:
            if change.rev > replica.rev:
                followed.waiting[change.rev] = change
        followed.apply_waiting(self._applied)
        followed.known_rev = max(page.head.rev, replica.rev, *followed.waiting)

    def take_loaded(
        self, followed: Followed, state: ChannelState | None, encoded: EncodedUsers | None
    ) -> None:
        """Make a state the replica's that was read for the first time, or after the zone was gone.

        Args:
            followed: The channel, which somebody follows.
            state: What was read; `None`: there is no such channel.
            encoded: Its users.
        """
        self._take(followed, state, "load", encoded)

    async def _read_anew(self, followed: Followed, cause: str) -> None:
        state = await self._log.read_state(followed.channel)
        encoded = None if state is None else await EncodedUsers.in_pieces(state)
        replica = followed.replica
        if followed.is_forgotten or replica is None:
            return
        if state is not None and cause != "rewound" and replica.position.covers(state.position):
            return  # The bus was quicker.
        self._take(followed, state, cause, encoded)

    def _take(
        self,
        followed: Followed,
        state: ChannelState | None,
        cause: str,
        encoded: EncodedUsers | None,
    ) -> None:
        """Make `state` the replica's; who watched the old one has to begin anew."""
        channel = followed.channel
        if followed.repair_at is not None:
            followed.repair_at.cancel()
            followed.repair_at = None
        heard_rev = followed.known_rev if followed.replica is None else 0
        if state is None:
            followed.is_gone = True
        if state is None or cause == "rewound":
            followed.waiting.clear()
        if followed.replica is not None:
            self._observer.reset(channel, cause if state is not None else "gone")
            self._ended(channel, EndReason.GONE if state is None else EndReason.ANEW)
            if followed.is_forgotten:
                return  # With its last watcher, who was just told.
        if state is not None:
            followed.is_gone = False
            if followed.replica is None:
                limit = self._config.resume_max_changes
                followed.replica = Replica(state, recent_max_changes=limit, encoded=encoded)
            else:
                if followed.replica.epoch != state.position.epoch:
                    followed.past_epoch = followed.replica.epoch
                followed.replica.reset(state, encoded)
            self._taken(followed)
            followed.known_rev = max(state.position.rev, heard_rev)
            followed.apply_waiting(self._applied)
            followed.known_rev = max(followed.known_rev, *followed.waiting, 0)
            if followed.is_behind:
                self.begin_soon(followed, "gap", self._config.gap_wait_s)
        followed.wake()

    async def catch_up(self, followed: Followed) -> None:
        """Bring the replica to the database's head as it is now, or later. Cancel-safe.

        Raises:
            UnavailableError: the database can't be asked.
        """
        heads: list[Position | None] = []
        # A repair that is under way may have asked before us, also for the state of a new epoch:
        # then it takes a second one, and where the epoch changes twice, a third.
        for _ in range(3):
            replica = followed.replica
            if replica is None or followed.is_gone:
                return
            seen, asked_s = replica.position, asyncio.get_running_loop().time()
            found = await self._log.read_heads([followed.channel])
            heads.append(found.get(followed.channel))
            self.note_head(followed, seen, heads[-1], asked_s)
            if followed.repair_at is not None:
                followed.repair_at.cancel()
                followed.repair_at = None
                self._begin(followed, "behind")
            while followed.is_repairing:
                await followed.moved()
            if followed.covers_any(heads):
                return
        raise UnavailableError("database", f"{followed.channel} can't be brought to its head")

    async def recall(self, followed: Followed, since_rev: int) -> None:
        """Remember the changes after `since_rev` from the log, if they are retained.

        The whole window of resumable changes is read at once, as others will want it, too.
        Cancel-safe.

        Raises:
            UnavailableError: the database can't be asked.
        """
        replica = followed.replica
        if replica is None or since_rev >= replica.oldest_resumable_rev:
            return
        if followed.recalling is None:
            followed.recalling = self._share(self._recall(followed, replica))
        await asyncio.shield(followed.recalling)

    async def _recall(self, followed: Followed, replica: Replica) -> None:
        try:
            oldest = replica.oldest_resumable_rev
            since_rev = max(0, replica.rev - self._config.resume_max_changes)
            async with self.slots:
                page = await self._log.read_changes(followed.channel, since_rev, oldest - since_rev)
                if page is not None and since_rev < page.floor < oldest:
                    page = await self._log.read_changes(
                        followed.channel, page.floor, oldest - page.floor
                    )
            if page is not None and page.head.epoch == replica.epoch:
                replica.remember(page.changes)
        finally:
            followed.recalling = None

    def _share(self, work: Coroutine[None, None, None]) -> asyncio.Future[None]:
        """Start work whose outcome several wait for; a failure is theirs, not the group's."""
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.create_task(self._settle(work, outcome))
        return outcome

    async def _settle(
        self, work: Coroutine[None, None, None], outcome: asyncio.Future[None]
    ) -> None:
        try:
            await work
        except asyncio.CancelledError:
            outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a task boundary: it is raised in who waits
            outcome.set_exception(error)
            outcome.exception()  # Whoever waited may be gone, which is no news for the log.
        else:
            outcome.set_result(None)
