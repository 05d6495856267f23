"""Progress bar of a replay on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from emulator.replay.compare import ReportProgress


@contextlib.contextmanager
def bar(console: Console, *, quiet: bool = False) -> Iterator[ReportProgress]:
    """Show a bar until the block ends; none when `quiet` or where the console is no terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bars:
        task = bars.add_task("replay", total=1.0)

        def report(name: str, share: float) -> None:
            bars.update(task, description=f"replay: {name}", completed=share)

        yield report
