"""Laws of the rivals as published, against numbers computed by hand."""

from __future__ import annotations

import dataclasses

import pytest

from emulator.replay.rivals import cost_aware, dynamo, expansion, llmd
from emulator.replay.rivals.cost_aware import Offer
from emulator.replay.rivals.expansion import Target
from emulator.replay.rivals.kpa import PodAutoscaler
from emulator.server import Counters


@pytest.mark.parametrize(
    ("replicas", "ready", "ratio", "wanted"),
    [
        (4, 4, 0.50, 4),  # between the thresholds
        (4, 4, 1.10, 8),  # 4 + ceil(4 (1.1 / 0.55 - 1)) = 4 + 4
        (4, 4, 0.60, 5),  # 4 + ceil(4 x 0.0909) = 4 + 1
        (4, 2, 1.10, 4),  # c = 1/2: 4 + ceil(4 (0.55 / 0.55 - 1)) = 4
        (4, 2, 2.00, 8),  # 4 + ceil(4 (1 / 0.55 - 1)) = 4 + ceil(3.27)
        (4, 0, 2.00, 15),  # none ready: c = 1: 4 + ceil(4 x 2.636) = 4 + 11
        (8, 8, 0.20, 4),  # 8 - floor(8 x 0.5)
        (8, 8, 0.35, 7),  # 8 - floor(8 x 0.125)
        (3, 3, 0.30, 3),  # 3 - floor(3 x 0.25) = 3 - 0
    ],
)
def test_slo_aware(replicas: int, ready: int, ratio: float, wanted: int) -> None:
    """Up above 0.55 corrected by the ready share, down below 0.40, still between."""
    assert llmd.slo_aware(replicas, ready, ratio) == wanted


def test_slo_ratio() -> None:
    """The larger P90 over its target counts, at most 2; nothing without a latency."""
    ttft, itl = [float(value) for value in range(0, 1010, 10)], [20.0] * 5
    assert llmd.slo_ratio(ttft, itl, ttft_target=1000, itl_target=40) == pytest.approx(0.9)
    assert llmd.slo_ratio(ttft, itl, ttft_target=9000, itl_target=40) == pytest.approx(0.5)
    assert llmd.slo_ratio(ttft, [], ttft_target=100, itl_target=40) == 2.0
    assert llmd.slo_ratio([], [], ttft_target=100, itl_target=40) is None


def test_token_aware() -> None:
    """90,000 tokens at 20,000/s and 2 s are 2.25 pods; a KV use of 2.5 caches at 0.8 is 3.125."""
    assert llmd.token_aware(90_000, 0.0, tokens_per_second=20_000, seconds=2.0) == 3
    assert llmd.token_aware(90_000, 2.5, tokens_per_second=20_000, seconds=2.0) == 4
    assert llmd.token_aware(0, 0.0, tokens_per_second=20_000, seconds=2.0) == 0


def test_kpa_without_panic() -> None:
    """Each window over the target, rounded up; a tick at most halves the pods."""
    scaler = PodAutoscaler(target=8.0)
    assert scaler.desired(0.0, stable=17.0, panic=20.0, ready=2) == 3
    assert scaler.desired(2.0, stable=8.0, panic=8.0, ready=10) == 5  # not 1
    assert scaler.panic_since is None


def test_kpa_panics_at_twice_the_ready_pods() -> None:
    """From twice the ready pods the panic window counts, and nothing goes down for a stable window after."""
    scaler = PodAutoscaler(target=10.0)
    assert scaler.desired(0.0, stable=25.0, panic=59.0, ready=3) == 6  # ceil(5.9) / 3 = 2: panic
    assert scaler.desired(2.0, stable=30.0, panic=80.0, ready=3) == 8
    assert scaler.desired(30.0, stable=20.0, panic=10.0, ready=8) == 8
    assert scaler.desired(62.0, stable=20.0, panic=10.0, ready=8) == 8  # 60 s since the last over
    assert scaler.desired(64.0, stable=20.0, panic=10.0, ready=8) == 4  # then at most halved
    assert scaler.desired(66.0, stable=20.0, panic=10.0, ready=4) == 2


def test_dynamo() -> None:
    """One worker above the upper threshold adds one; only all below the lower one take one away."""
    assert dynamo.workers([0.3, 1.01], 2, up=1.0, down=0.6) == 3
    assert dynamo.workers([0.3, 0.7], 2, up=1.0, down=0.6) == 2
    assert dynamo.workers([0.3, 0.59], 2, up=1.0, down=0.6) == 1
    assert dynamo.workers([0.1], 1, up=1.0, down=0.6) == 1
    assert dynamo.workers([], 2, up=1.0, down=0.6) == 2


def counters(running: int, waiting: int, kv: float) -> Counters:
    return Counters(
        replica=0, state="ready", started_seconds=0.0, finished=0, running=running, waiting=waiting,
        prompt_tokens=(0, 0), generation_tokens=(0, 0), ttft=(0, 0), itl=(0, 0), prompt_tokens_total=0,
        generation_tokens_total=0, kv_cache=kv,
    )  # fmt: skip


def test_dynamo_counts_what_waits() -> None:
    """Waiting requests count as much KV cache as running ones."""
    assert dynamo.utilization(counters(10, 0, 0.5)) == 0.5
    assert dynamo.utilization(counters(10, 5, 0.5)) == 0.75
    assert dynamo.utilization(counters(0, 0, 0.0)) == 0.0


OFFERS = {
    "a": Offer(replicas=1, capacity=2.0, cost=40, least=0, most=10),
    "h": Offer(replicas=1, capacity=8.0, cost=90, least=0, most=2),
}


@pytest.mark.parametrize(
    ("replicas", "demand", "wanted"),
    [
        ((1, 1), 8.0, {"a": 1, "h": 1}),  # 8 / 0.85 = 9.4 < 10, 8 / 0.70 = 11.4 > 10
        ((1, 1), 10.0, {"a": 1, "h": 2}),  # 1.8 more: a request costs 11.25 on h, 20 on a
        ((1, 1), 20.0, {"a": 4, "h": 2}),  # 13.5 more: h is full after 8, 5.5 are three of a
        ((3, 2), 4.2, {"a": 3, "h": 0}),  # 22 - 4.2 / 0.70 = 16 spare: both h go
        ((5, 0), 0.0, {"a": 1, "h": 0}),  # the cheapest keeps one
    ],
)
def test_cost_aware(replicas: tuple[int, int], demand: float, wanted: dict[str, int]) -> None:
    """Replicas come where a request costs least, and go from the dearest."""
    offers = {
        name: dataclasses.replace(OFFERS[name], replicas=number)
        for name, number in zip(OFFERS, replicas, strict=True)
    }
    assert cost_aware.placed(offers, demand) == wanted


def test_expansion() -> None:
    """Blocks of 1, 2, 4, ... in order of their cost, whatever a replica carries."""
    targets = [
        Target(name="h", least=0, most=4, cost=90),
        Target(name="a", least=1, most=8, cost=40),
    ]
    # Blocks of a: 40, 80, 160; of h: 90, 180, 90 (the rest of four).
    wanted = {
        1: (0, 1),
        2: (0, 2),
        4: (0, 4),
        5: (1, 4),
        6: (2, 4),
        7: (2, 5),
        12: (4, 8),
        99: (4, 8),
    }
    for replicas, (h, a) in wanted.items():
        assert expansion.allocated(targets, replicas) == {"h": h, "a": a}
