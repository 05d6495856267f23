"""Long work in pieces: others have their turn, and what it took is counted."""

from __future__ import annotations

import asyncio

import pytest

from adapter import tasks
from adapter.ui.rendering import Budget


async def turns_of(ended: asyncio.Event) -> int:
    """Turns of the event loop until the event."""
    turns = 0
    while not ended.is_set():
        turns += 1
        await asyncio.sleep(0)
    return turns


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.0, 10 * tasks.TURNS, 1000), (1e9, 0, 5)])
async def test_others_run_between_pieces_and_not_within_one(
    monkeypatch: pytest.MonkeyPatch, seconds: float, least: int, most: int
) -> None:
    """After every step where a piece is over at once, never where it is not."""
    monkeypatch.setattr(tasks, "PIECE_SECONDS", seconds)
    ended = asyncio.Event()
    others = asyncio.create_task(turns_of(ended))
    await asyncio.sleep(0)
    budget = Budget(0.5, least=0.0, most=1.0)
    pieces = tasks.Pieces(budget)
    for _ in range(10):
        sum(range(1000))
        await pieces.breathe()
    pieces.end()
    ended.set()
    assert least <= await others <= most
    assert budget.spent > 0
