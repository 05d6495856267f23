"""Ending asyncio tasks without losing a cancellation of one's own."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; its result or error is for the caller to look at.

    A cancellation of the caller while it waits is raised once the task has ended. `await task` inside
    `contextlib.suppress(asyncio.CancelledError)` would swallow it: the two look the same there.
    """
    task.cancel()
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
            task.cancel()
    if cancelled:
        raise asyncio.CancelledError
