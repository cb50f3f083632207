"""The import: users of a file made in a running service, batch by batch, once each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from realtime.service_api import ProblemAnswerError, ServiceApi
from realtime.user_file import RefusedLine, UserFile, UserRow

BATCH_MAX_ROWS: Final = 1_000
BATCH_MAX_BYTES: Final = 512 * 1024
"""Of the file: a batch stays below what the service takes as one body."""
MARK_SUFFIX: Final = ".import"
MADE_PROBLEMS: Final = {403, 404, 409, 413, 422}
"""Answers that are about the users of a batch, and not about the service."""


class Mark(msgspec.Struct):
    """How far an import has come, kept beside the file until it is through.

    `size_bytes` and `modified_ns` are the file's, `url` is the service: of another file or for
    another service, the mark says nothing.
    """

    url: str
    size_bytes: int
    modified_ns: int
    line: int
    offset: int
    made: int
    unchanged: int
    refused: int


@dataclass(slots=True)
class ImportReport:
    """What an import has done so far, with what an earlier run of it did.

    Attributes:
        made: Users that it made.
        unchanged: Those that were there already, as their lines say.
        refused: Lines from which no user was made.
        line: The last line that is done with.
        offset: Where that ends in the file, in bytes.
        resumed_line: The line after which an earlier run was gone on with; 0: from the beginning.
    """

    made: int = 0
    unchanged: int = 0
    refused: int = 0
    line: int = 1
    offset: int = 0
    resumed_line: int = 0


class UserImport:
    """Makes the users of one file.

    Args:
        path: The file.
        url: The service.
        api: Asks it.
        refuse: Told of each line from which no user is made.
        progressed: Called after each batch, with the part of the file done, 0 to 1.
        makes_zones: Whether to make zones that aren't there.

    Attributes:
        report: What was done, also when the import fails in the middle.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        api: ServiceApi,
        *,
        refuse: Callable[[RefusedLine], None],
        progressed: Callable[[ImportReport, float], None],
        makes_zones: bool = False,
    ) -> None:
        self._path = path
        self._url = url
        self._api = api
        self._refuse_line = refuse
        self._progressed = progressed
        self._makes_zones = makes_zones
        self._zones: set[str] = set()
        self._mark = path.with_name(path.name + MARK_SUFFIX)
        self.report = ImportReport()

    async def run(self) -> ImportReport:
        """Make all of them; cancelled or failed, the next run goes on after the last batch.

        Raises:
            OSError: the file can't be read, or the mark beside it can't be written.
            UnusableFileError: it isn't a file of users.
            ServiceError: the service can't be reached, or refuses whatever it is asked.
        """
        file = await asyncio.to_thread(UserFile, self._path)
        await asyncio.to_thread(self._resume)
        report = self.report
        async for batch in _batches(file.rows(report.line, report.offset)):
            await self._take(batch)
            report.line, report.offset = batch[-1].line, batch[-1].end
            await asyncio.to_thread(self._keep_mark)
            self._progressed(report, report.offset / max(1, file.size_bytes))
        await asyncio.to_thread(self._mark.unlink, missing_ok=True)
        return report

    def _resume(self) -> None:
        try:
            mark = msgspec.json.decode(self._mark.read_bytes(), type=Mark)
        except (FileNotFoundError, msgspec.DecodeError):
            return
        status = self._path.stat()
        if (mark.url, mark.size_bytes, mark.modified_ns) != (
            self._url,
            status.st_size,
            status.st_mtime_ns,
        ):
            return
        self.report = ImportReport(
            mark.made, mark.unchanged, mark.refused, mark.line, mark.offset, mark.line
        )

    def _keep_mark(self) -> None:
        report, status = self.report, self._path.stat()
        mark = Mark(
            self._url,
            status.st_size,
            status.st_mtime_ns,
            report.line,
            report.offset,
            report.made,
            report.unchanged,
            report.refused,
        )
        new = self._mark.with_name(self._mark.name + ".new")
        new.write_bytes(msgspec.json.encode(mark))
        # At once or not at all: a mark cut short would begin the import anew.
        new.replace(self._mark)

    async def _take(self, batch: list[UserRow | RefusedLine]) -> None:
        rows: list[UserRow] = []
        lines: dict[int, int] = {}
        for item in batch:
            if isinstance(item, RefusedLine):
                self._refuse(item.line, item.end, item.reason)
            elif item.global_id in lines:
                reason = f"global_id {item.global_id} is in line {lines[item.global_id]} already"
                self._refuse(item.line, item.end, reason)
            else:
                lines[item.global_id] = item.line
                rows.append(item)
        if self._makes_zones:
            await self._make_zones(rows)
        await self._make(rows)

    def _refuse(self, line: int, end: int, reason: str) -> None:
        self.report.refused += 1
        self._refuse_line(RefusedLine(line, end, reason))

    async def _make_zones(self, rows: list[UserRow]) -> None:
        for zone_id in dict.fromkeys(row.zone_id for row in rows):
            if zone_id is not None and zone_id not in self._zones:
                await self._api.make_zone(zone_id)
                self._zones.add(zone_id)

    async def _make(self, rows: list[UserRow]) -> None:
        """Make users together; those that the service refuses are found by halves."""
        if not rows:
            return
        try:
            await self._api.call("POST", "/users/bulk", {"users": [row.document() for row in rows]})
        except ProblemAnswerError as problem:
            if problem.status not in MADE_PROBLEMS:
                raise
            if problem.kind == "duplicate":
                await self._make_missing(rows, problem)
            elif len(rows) == 1:
                self._refuse(rows[0].line, rows[0].end, _reason(problem))
            else:
                middle = len(rows) // 2
                await self._make(rows[:middle])
                await self._make(rows[middle:])
            return
        self.report.made += len(rows)

    async def _make_missing(self, rows: list[UserRow], problem: ProblemAnswerError) -> None:
        """Leave out who is there already, and make the others.

        That is so after a run that was interrupted between the service's commit and the mark.
        """
        missing: list[UserRow] = []
        for row in rows:
            response = await self._api.call("GET", f"/users?global_id={row.global_id}")
            found = response.json()["users"]
            if not found:
                missing.append(row)
            elif row.is_like(found[0]):
                self.report.unchanged += 1
            else:
                reason = f"global_id {row.global_id} is another user's, with id {found[0]['id']}"
                self._refuse(row.line, row.end, reason)
        if len(missing) == len(rows):
            # Taken by somebody whom this token doesn't show, or by another writer just now.
            for row in missing:
                self._refuse(row.line, row.end, _reason(problem))
            return
        await self._make(missing)


def _reason(problem: ProblemAnswerError) -> str:
    return str(problem).partition(": ")[2]


async def _batches(
    items: Iterator[UserRow | RefusedLine],
) -> AsyncIterator[list[UserRow | RefusedLine]]:
    """Part lines into batches, reading them beside the loop."""

    def read() -> list[UserRow | RefusedLine]:
        batch: list[UserRow | RefusedLine] = []
        for item in islice(items, BATCH_MAX_ROWS):
            batch.append(item)
            if item.end - batch[0].end > BATCH_MAX_BYTES:
                break
        return batch

    while batch := await asyncio.to_thread(read):
        yield batch
