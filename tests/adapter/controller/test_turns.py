"""Work on all variants leaves everything else its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from adapter.controller import status_writer
from adapter.controller.status_writer import StatusWriter
from adapter.kube.client import Cluster
from adapter.resources.inputs import InvalidVariant

MANY = 300

pytestmark = pytest.mark.virtual_time


async def test_statuses_of_many_variants_are_built_a_few_at_a_time() -> None:
    """Between two turns of the event loop at most as many statuses as are written at a time."""
    turns, built = [0], []

    def watched(key: str) -> Mapping[str, Any] | None:
        built.append((turns[0], key))
        return None  # it is gone, so that nothing is awaited

    async def turn() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    writer = StatusWriter(
        object.__new__(Cluster),
        identity="a",
        watched=watched,
        leads=lambda: True,
        refresh_seconds=60.0,
    )
    turning = asyncio.create_task(turn())
    refused = [
        InvalidVariant(
            namespace="team-a", name=f"v{n}", reason="InvalidConfiguration", message="no model"
        )
        for n in range(MANY)
    ]
    await writer.write({}, tuple(refused))
    turning.cancel()
    assert len(built) == MANY
    per_turn = [sum(at == number for at, _ in built) for number in range(turns[0] + 1)]
    assert max(per_turn) <= status_writer.CONCURRENCY
