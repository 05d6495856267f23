"""Faulty inputs of every kind: the target neither falls nor goes above what the load needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from tests.adapter.controller import chaos_faults as faults
from tests.adapter.controller import chaos_forms as forms
from tests.adapter.controller import chaos_matrix as chaos
from tests.adapter.controller import chaos_pickers, chaos_servers


def _every(
    step: int, cases: Callable[[], Iterable[faults.Case]], origin: chaos.Origin
) -> list[faults.Case]:
    """One of so many cases, other ones from each source; `make chaos` has all from both."""
    return list(cases())[(origin == "prometheus") * step // 2 :: step]


_CASES: dict[str, tuple[Callable[[chaos.Origin], Iterable[faults.Case]], int]] = {
    "vLLM": (partial(_every, 2, partial(faults.cases_of, chaos_servers.VLLM)), 50),
    "by chance": (lambda _: faults.cases_by_chance(), 20),
    "picker": (lambda _: chaos_pickers.cases(), 50),
}
"""Cases from a source, and a number that there are more of."""
for _server in chaos_servers.SERVERS:
    _CASES[f"forms of {_server.name}"] = partial(_every, 4, partial(forms.cases_of, _server)), 5
    _CASES.setdefault(_server.name, (partial(_every, 4, partial(faults.cases_of, _server)), 20))


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
@pytest.mark.parametrize("name", _CASES)
async def test_no_faulty_input_moves_the_target(
    origin: chaos.Origin, name: str, objects: Path
) -> None:
    """Each input by each fault at one pod or at all, and odd forms: units, caches, clocks, other models."""
    cases, least = _CASES[name]
    outcomes = await chaos.matrix(objects, origin, cases(origin))
    assert len(outcomes) > least
    assert [
        f"{item.case.name}: {item.shown} became {item.least} to {item.most}: {item.said}"
        for item in outcomes
        if not item.holds
    ] == []


async def test_a_count_that_falls_beside_its_sum_makes_no_longer_requests(objects: Path) -> None:
    """SGLang's requests with lengths fall at all pods: what grew until they count again is not known."""
    cases = [
        case
        for case in faults.cases_of(chaos_servers.SGLANG)
        if case.what == "finished by latency" and case.fault in {"fall", "reset"}
    ]
    assert len(cases) == 4
    outcomes = await chaos.matrix(objects, "direct", cases)
    assert [(item.case.name, item.targets) for item in outcomes if not item.holds] == []


async def test_containers_that_end_again_and_again_lower_no_target(objects: Path) -> None:
    """Each serves for 23 s: what came between its last page and its end is no load that fell."""
    cases = []
    for server in chaos_servers.SERVERS:

        def began(at: float, since: float) -> float:
            return since + 3.0 + (at - since - 3.0) // 23.0 * 23.0

        def page(
            at: float, since: float, server: chaos_servers.Server = server
        ) -> chaos_servers.Page:
            start = began(at, since)
            if start <= since:
                return server.steady(at)
            filled = start + chaos_servers.RUNNING / chaos_servers.PER_SECOND
            shown = server.steady(max(at, filled), began=filled)
            name = "process_start_time_seconds"
            return {**shown, name: chaos.BEGAN + start} if name in shown else shown

        def restarted(at: float, since: float) -> float | None:
            start = began(at, since)
            return None if start <= since else start

        case = faults.Case(
            fault="container ends", what="", pods=faults.PODS, page=page, server=server,
            lasts=True, restarted=restarted,
        )  # fmt: skip
        cases.append(case)
    outcomes = await chaos.matrix(objects, "direct", cases)
    assert [(item.case.name, item.targets) for item in outcomes if not item.holds] == []


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
