"""What `zonecast prune` shows: a progress bar on standard error, and one line at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from db.retention import PruneReport


@contextmanager
def prune_progress(console: Console) -> Iterator[Callable[[PruneReport], None]]:
    """Show a bar over the channels, moved by what is yielded; without a terminal there is none."""
    with Progress(
        TextColumn("pruning"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("channels, {task.fields[changes]} changes deleted"),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=None, changes=0)

        def progressed(report: PruneReport) -> None:
            total = max(report.heads, report.seen)
            progress.update(task, total=total, completed=report.seen, changes=report.changes)

        yield progressed


def prune_summary(report: PruneReport) -> str:
    """Write what was done, in one line."""
    line = f"deleted {report.changes} changes in {report.channels} of {report.seen} channels"
    if report.busy:
        line += f"; {report.busy} were being written to and are left to the next run"
    return line
