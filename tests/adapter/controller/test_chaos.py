"""Faulty inputs of every kind: the target neither falls nor goes above what the load needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapter.controller import chaos_matrix as chaos


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
async def test_no_faulty_input_moves_the_target(origin: chaos.Origin, objects: Path) -> None:
    """Each input by each fault at one pod or at all, read from the pods and from Prometheus."""
    outcomes = await chaos.matrix(objects, origin)
    assert len(outcomes) > 140
    assert [
        f"{item.case.name}: {item.right} became {item.least} to {item.most}: {item.said}"
        for item in outcomes
        if not item.holds
    ] == []
