"""How far a replay is, for people at a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from emulator.replay.compare import Tell


@contextlib.contextmanager
def shown(console: Console, *, quiet: bool = False) -> Iterator[Tell]:
    """A bar that goes away at the end; none where nobody would see it."""
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

        def tell(name: str, share: float) -> None:
            bars.update(task, description=f"replay: {name}", completed=share)

        yield tell
