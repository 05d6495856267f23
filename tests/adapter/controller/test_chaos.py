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


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
@pytest.mark.parametrize("pods", [1, chaos.PODS])
async def test_a_gauge_that_keeps_requests_holds_no_replicas(
    origin: chaos.Origin, pods: int, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gauge of waiting requests keeps those of disconnected clients though there is room."""

    def page(at: float, _: float) -> chaos.Page:
        return {**chaos.steady(at), "vllm:num_requests_waiting": 60.0}

    case = chaos.Case(fault="kept", what="waiting", pods=pods, page=page)
    monkeypatch.setattr(chaos, "cases", lambda: iter([case]))
    (outcome,) = await chaos.matrix(objects, origin)
    assert outcome.right is not None
    assert set(outcome.targets) == {outcome.right}
