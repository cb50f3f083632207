"""What `zonecast prune` shows: a progress bar on standard error, and one line at the end."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from db.retention import PruneReport


class PruneDisplay:
    """The progress bar over the channels; without a terminal there is none.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("pruning"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("channels, {task.fields[changes]} changes deleted"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("", total=None, changes=0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def progressed(self, report: PruneReport) -> None:
        """Show how far it is."""
        total = max(report.heads, report.seen)
        self._progress.update(
            self._task, total=total, completed=report.seen, changes=report.changes
        )


def prune_summary(report: PruneReport) -> str:
    """Write what was done, in one line."""
    line = f"deleted {report.changes} changes in {report.channels} of {report.seen} channels"
    if report.busy:
        line += f"; {report.busy} were being written to and are left to the next run"
    return line
