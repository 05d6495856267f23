"""From fleet to plan: the published case, the cheapest accelerator, bounds, and what is set aside."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from adapter.planning import fleet
from adapter.planning import plan as planning
from analyzer.latency import LatencyParameters
from bench import planned_fleets
from optimizer.explain import Explainer, Explanation
from optimizer.problem import VariantCandidates

PUBLISHED = fleet.Variant(
    name="ns/v",
    model="m",
    service_class="Premium",
    profiles=(
        fleet.Profile(
            accelerator="A100", max_batch=4, latency=LatencyParameters(alpha_ms=20.58, beta_ms=0.41)
        ),
    ),
    load=fleet.Load(arrival_rate_rps=40 / 60, input_tokens=0, output_tokens=178),
    current=fleet.CurrentAllocation(accelerator="A100", replicas=1),
)


def decide(variant: fleet.Variant, **targets: float) -> planning.Plan:
    levels = {"m": fleet.Targets(**({"itl_ms": 24.0, "ttft_ms": 500.0} | targets))}
    return planning.plan(
        fleet.Fleet(
            accelerators=(
                fleet.Accelerator(name="A100", device_type="A100", unit_cost=40),
                fleet.Accelerator(name="H100", device_type="H100", unit_cost=60),
            ),
            service_classes=(fleet.ServiceClass(name="Premium", priority=1, targets=levels),),
            variants=(variant,),
        )
    )


@pytest.mark.parametrize(("rpm", "replicas"), [(30, 1), (40, 2), (60, 2), (80, 3), (120, 4)])
def test_the_published_case(rpm: float, replicas: int) -> None:
    """Replicas of the workload-variant-autoscaler's example at its published rates."""
    load = dataclasses.replace(PUBLISHED.load, arrival_rate_rps=rpm / 60)
    candidate = decide(dataclasses.replace(PUBLISHED, load=load)).decisions["ns/v"].candidate
    assert candidate.replicas == replicas
    assert candidate.cost == 40 * replicas
    assert candidate.max_rate_rpm == pytest.approx(33.89, abs=0.005)
    assert candidate.ttft_ms <= 500
    assert candidate.itl_ms <= 24


FASTER = fleet.Profile(
    accelerator="H100", max_batch=16, latency=LatencyParameters(alpha_ms=8, beta_ms=0.2)
)


def test_the_cheapest_accelerator_is_taken_and_the_runner_up_named() -> None:
    """One H100 at 60 costs less than four A100 at 160, transition penalty included."""
    variant = dataclasses.replace(
        PUBLISHED,
        profiles=(*PUBLISHED.profiles, FASTER),
        load=dataclasses.replace(PUBLISHED.load, arrival_rate_rps=2.0),
    )
    decision = decide(variant).decisions["ns/v"]
    assert (decision.candidate.accelerator, decision.candidate.replicas) == ("H100", 1)
    assert decision.runner_up == "4 x A100 at 160 cents/h"


def test_the_accelerator_is_kept_when_told() -> None:
    """With keep_accelerator only the current accelerator is a candidate."""
    variant = dataclasses.replace(
        PUBLISHED,
        profiles=(*PUBLISHED.profiles, FASTER),
        load=dataclasses.replace(PUBLISHED.load, arrival_rate_rps=2.0),
        keep_accelerator=True,
    )
    candidate = decide(variant).decisions["ns/v"].candidate
    assert (candidate.accelerator, candidate.replicas) == ("A100", 4)


def test_bounds_hold_and_are_the_reason() -> None:
    """max_replicas caps, min_replicas lifts, and the reason says which did."""
    busy = dataclasses.replace(PUBLISHED.load, arrival_rate_rps=2.0)
    capped = decide(dataclasses.replace(PUBLISHED, load=busy, max_replicas=2))
    assert capped.decisions["ns/v"].candidate.replicas == 2
    assert "maximum is 2" in capped.decisions["ns/v"].explanation.sized
    idle = dataclasses.replace(PUBLISHED.load, arrival_rate_rps=0.0)
    lifted = decide(dataclasses.replace(PUBLISHED, load=idle, min_replicas=3))
    assert lifted.decisions["ns/v"].candidate.replicas == 3
    assert "minimum of 3" in lifted.decisions["ns/v"].explanation.sized


def test_no_load_and_no_minimum_is_zero_replicas() -> None:
    """A variant without load may go to nothing, at no cost."""
    idle = dataclasses.replace(PUBLISHED.load, arrival_rate_rps=0.0)
    candidate = decide(dataclasses.replace(PUBLISHED, load=idle, min_replicas=0)).decisions["ns/v"]
    assert (candidate.candidate.replicas, candidate.candidate.cost) == (0, 0)


def test_an_slo_that_cannot_be_met_is_explained() -> None:
    """An ITL target below that of a single request sets the variant aside with both numbers."""
    plan = decide(PUBLISHED, itl_ms=20.0)
    assert plan.decisions == {}
    assert plan.set_aside["ns/v"] == (
        "A100: ITL target 20 ms cannot be met: a single request already takes 20.99 ms"
    )


def test_a_tps_target_never_lowers_the_rate() -> None:
    """The rate to serve is the larger of arrivals and TPS over output tokens."""
    assert decide(PUBLISHED, tps=1.0).decisions["ns/v"].candidate.replicas == 2
    assert decide(PUBLISHED, tps=178 * 2.0).decisions["ns/v"].candidate.replicas == 4


@pytest.mark.parametrize(
    ("in_flight", "ordered", "surge", "replicas"),
    [
        pytest.param(0.0, 0, False, 2, id="no-queue"),
        pytest.param(30.0, 0, False, 13, id="queue"),
        pytest.param(30.0, 2, False, 2, id="what-is-ordered-suffices"),
        pytest.param(30.0, 2, True, 13, id="what-is-ordered-for-the-rate-in-a-surge"),
        pytest.param(30.0, 3, True, 2, id="more-is-ordered-than-a-surge-needs"),
        pytest.param(3.0, 0, False, 2, id="served-by-those-anyway"),
    ],
)
def test_requests_in_flight_are_served_at_once(
    in_flight: float, ordered: int, replicas: int, *, surge: bool
) -> None:
    """A replica holds what it has in service at its capacity, 2.1 requests of 3.8 s at 33.9 a minute."""
    load = dataclasses.replace(PUBLISHED.load, in_flight=in_flight, ordered=ordered, surge=surge)
    candidate = decide(dataclasses.replace(PUBLISHED, load=load)).decisions["ns/v"].candidate
    assert candidate.replicas == replicas


def test_no_more_than_the_maximum_for_a_queue() -> None:
    """The bound of the variant holds for a queue too."""
    load = dataclasses.replace(PUBLISHED.load, in_flight=300.0)
    variant = dataclasses.replace(PUBLISHED, load=load, max_replicas=9)
    candidate = decide(variant).decisions["ns/v"].candidate
    assert (candidate.replicas, candidate.binding) == (9, "maximum")


@pytest.mark.parametrize(
    ("routing", "queued_at", "replicas"),
    [
        pytest.param("least-loaded", 0, 41, id="any-replica-can-serve-them"),
        pytest.param("least-loaded", 2, 5, id="those-two-serve-them"),
        pytest.param("random", 2, 41, id="arrivals-go-to-full-replicas-too"),
    ],
)
def test_a_queue_asks_for_no_replicas_that_would_find_nothing_to_do(
    routing: fleet.Routing, queued_at: int, replicas: int
) -> None:
    """100 requests wait at two replicas: a load-aware gateway needs others for the arrivals only."""
    load = dataclasses.replace(
        PUBLISHED.load, in_flight=100.0, queued_at=queued_at, backlog_rps=0.1
    )
    variant = dataclasses.replace(PUBLISHED, load=load, routing=routing)
    assert decide(variant).decisions["ns/v"].candidate.replicas == replicas


@pytest.mark.parametrize(("ordered", "replicas"), [(0, 2), (3, 3), (99, 4)])
def test_a_queue_that_is_gone_by_then_asks_for_no_more_than_is_ordered(
    ordered: int, replicas: int
) -> None:
    """Two replicas serve the arrivals, four would work off the queue in time, and 51 hold it at once."""
    rate = PUBLISHED.load.arrival_rate_rps
    load = dataclasses.replace(
        PUBLISHED.load, in_flight=100.0, ordered=ordered, drained=True, surge=True,
        arrival_rate_rps=3.0 * rate, backlog_rps=2.0 * rate,
    )  # fmt: skip
    candidate = decide(dataclasses.replace(PUBLISHED, load=load)).decisions["ns/v"].candidate
    assert candidate.replicas == replicas


def test_a_queue_that_is_gone_by_then_makes_no_other_accelerator_cheaper() -> None:
    """Three H100 are ordered: three A100 for 120 would cost less than these, but none of them is there."""
    slower = dataclasses.replace(
        FASTER, max_batch=8, latency=LatencyParameters(alpha_ms=20.58, beta_ms=0.2)
    )
    load = dataclasses.replace(
        PUBLISHED.load, arrival_rate_rps=4.0, backlog_rps=3.5, ordered=3, drained=True
    )
    variant = dataclasses.replace(
        PUBLISHED, profiles=(*PUBLISHED.profiles, slower), load=load,
        current=fleet.CurrentAllocation(accelerator="H100", replicas=2),
    )  # fmt: skip
    candidate = decide(variant).decisions["ns/v"].candidate
    assert (candidate.accelerator, candidate.replicas) == ("H100", 3)


def test_what_the_arrivals_need_by_themselves_is_told_beside_a_queue() -> None:
    """Half of the rate works off the queue, whose requests are in flight too."""
    alone = decide(PUBLISHED).decisions["ns/v"].candidate.replicas
    rate = PUBLISHED.load.arrival_rate_rps
    load = dataclasses.replace(
        PUBLISHED.load, arrival_rate_rps=2.0 * rate, backlog_rps=rate, in_flight=100.0
    )
    candidate = decide(dataclasses.replace(PUBLISHED, load=load)).decisions["ns/v"].candidate
    assert candidate.for_arrivals == alone < candidate.replicas


def test_replicas_for_the_arrivals_beside_a_queue_are_rounded_up_once() -> None:
    """1.9 and half a replica's rate need 3 together: the arrivals' part of these, 2.4, is no third one."""
    one = decide(PUBLISHED).decisions["ns/v"].candidate.max_rate_rpm / 60.0
    load = dataclasses.replace(
        PUBLISHED.load, arrival_rate_rps=2.4 * one, backlog_rps=0.5 * one, in_flight=1.0
    )
    candidate = decide(dataclasses.replace(PUBLISHED, load=load)).decisions["ns/v"].candidate
    assert (candidate.for_arrivals, candidate.replicas) == (2, 3)


def test_reasons_are_found_out_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan explains no variant, a reader those that it reads, once; another process gets the reasons."""
    tight = planned_fleets.solved_by(planned_fleets.tight(planned_fleets.fleet(20)), "greedy")
    explained: list[str] = []
    explain = Explainer.explain

    def counted(self: Explainer, variant: VariantCandidates, reason: str) -> Explanation:
        explained.append(variant.name)
        return explain(self, variant, reason)

    monkeypatch.setattr(Explainer, "explain", counted)
    decisions = planning.plan(tight).decisions
    assert not explained
    name, decision = next(iter(decisions.items()))
    assert decision.reason
    assert decision.runner_up
    assert explained == [name]
    pickled = pickle.dumps(decisions)
    assert explained == list(decisions)
    assert b"adapter.planning.candidates" not in pickled
    assert pickle.loads(pickled) == decisions  # noqa: S301 - our own
    assert len(explained) == len(decisions)
