"""What a replay shows: a progress bar on standard error, and the summary at the end."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from realtime.replay import ReplayReport

WARNINGS_SHOWN: Final = 20


class ReplayDisplay:
    """The progress bar; without a terminal there is none, only the warnings.

    Args:
        console: Where it is shown.
        name: The trace's name.
    """

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._warnings = 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(name, total=1.0, figures="")

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

    def warn(self, text: str) -> None:
        """Show one malformed line; after twenty they are only counted."""
        self._warnings += 1
        if self._warnings <= WARNINGS_SHOWN:
            self._progress.console.print(text, style="yellow", markup=False, highlight=False)
        elif self._warnings == WARNINGS_SHOWN + 1:
            self._progress.console.print("more malformed lines are skipped", style="yellow")

    def progressed(self, report: ReplayReport, part: float) -> None:
        """Show how far it is."""
        delay_ms = report.delays.percentile(50)
        figures = f"{report.readings} readings {report.rate:.0f}/s"
        if delay_ms is not None:
            figures += f" {delay_ms} ms"
        self._progress.update(self._task, completed=part, figures=figures)


def summary(report: ReplayReport) -> str:
    """Write what was done, in a few lines."""
    done = f"{report.readings} readings, {report.moves} moves, {report.transactions} transactions"
    lines = [f"{done} in {report.seconds:.1f} s: {report.rate:.0f} readings/s"]
    if report.skipped:
        lines.append(f"{report.skipped} malformed lines skipped")
    if report.unwatched is not None:
        lines.append(f"not watched: {report.unwatched}")
        return "\n".join(lines)
    half, most = report.delays.percentile(50), report.delays.percentile(99)
    if half is not None:
        lines.append(
            f"commit to screen: p50 {half} ms, p99 {most} ms, "
            f"over {report.delays.total} transactions received"
        )
    compared = report.equal_zones + len(report.unequal_zones)
    lines.append(
        f"{report.equal_zones} of {compared} watched zones equal the database "
        "to the version and digest"
    )
    return "\n".join(lines)
