"""Faulty inputs of every kind: the target neither falls nor goes above what the load needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.adapter.controller import chaos_faults as faults
from tests.adapter.controller import chaos_forms as forms
from tests.adapter.controller import chaos_matrix as chaos
from tests.adapter.controller import chaos_pickers, chaos_servers


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
@pytest.mark.parametrize(
    ("cases", "least"),
    [
        (lambda: faults.cases_of(chaos_servers.VLLM), 100),
        (faults.cases_by_chance, 20),
        (chaos_pickers.cases, 50),
    ],
    ids=[
        "vLLM",
        "by chance",
        "picker",
    ],
)
async def test_no_faulty_input_moves_the_target(
    origin: chaos.Origin, cases: Callable[[], Iterable[faults.Case]], least: int, objects: Path
) -> None:
    """Each input by each fault at one pod or at all, read from the pods and from Prometheus."""
    outcomes = await chaos.matrix(objects, origin, cases())
    assert len(outcomes) > least
    assert _moved(outcomes) == []


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
@pytest.mark.parametrize("server", chaos_servers.SERVERS, ids=lambda server: server.name)
async def test_no_odd_form_moves_the_target(
    origin: chaos.Origin, server: chaos_servers.Server, objects: Path
) -> None:
    """Units, caches, clocks and other models, half of them from each source."""
    outcomes = await chaos.matrix(objects, origin, _half(origin, forms.cases_of(server)))
    assert len(outcomes) > 10
    assert _moved(outcomes) == []


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
@pytest.mark.parametrize(
    "server",
    [server for server in chaos_servers.SERVERS if server is not chaos_servers.VLLM],
    ids=lambda server: server.name,
)
async def test_no_faulty_input_of_other_servers_moves_the_target(
    origin: chaos.Origin, server: chaos_servers.Server, objects: Path
) -> None:
    """The faults at other servers than vLLM, half of them from each source."""
    outcomes = await chaos.matrix(objects, origin, _half(origin, faults.cases_of(server)))
    assert len(outcomes) > 50
    assert _moved(outcomes) == []


def _half(origin: chaos.Origin, cases: Iterable[faults.Case]) -> list[faults.Case]:
    """Every second case, other ones from each source; `make chaos` has all from both."""
    return list(cases)[origin == "prometheus" :: 2]


def _moved(outcomes: Iterable[chaos.Outcome]) -> list[str]:
    """The cases whose target moved, one line each."""
    return [
        f"{item.case.name}: {item.shown} became {item.least} to {item.most}: {item.said}"
        for item in outcomes
        if not item.holds
    ]


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
@pytest.mark.parametrize("pods", [1, faults.PODS])
async def test_a_gauge_that_keeps_requests_holds_no_replicas(
    origin: chaos.Origin, pods: int, objects: Path
) -> None:
    """The gauge of waiting requests keeps those of disconnected clients though there is room."""

    def page(at: float, _: float) -> chaos_servers.Page:
        return {**chaos_servers.VLLM.steady(at), "vllm:num_requests_waiting": 60.0}

    case = faults.Case(fault="kept", what="waiting", pods=pods, page=page)
    (outcome,) = await chaos.matrix(objects, origin, [case])
    assert outcome.right is not None
    assert set(outcome.targets) == {outcome.right}
