"""Scores of a run: SLO attainment, warm-up, and recovery times after steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emulator.replay import cluster, compare, scoring
from emulator.replay.scenario import Scenario
from emulator.simulation import Results
from tests.emulator.replay.small_scenarios import PROFILE, generated, one_model


def results(arrivals: list[float], **columns: list[float]) -> Results:
    """Requests by hand: seconds of arrival, then ms from there; NaN for what did not happen."""
    at = np.array(arrivals) * 1000.0
    number = len(arrivals)
    ttft = np.array(columns.get("ttft", [100.0] * number))
    tokens = np.array(columns.get("tokens", [11] * number), dtype=np.int32)
    itl = np.array(columns.get("itl", [20.0] * number))
    return Results(
        arrival_ms=at,
        start_ms=at,
        first_token_ms=at + ttft,
        finish_ms=at + ttft + itl * (tokens - 1),
        input_tokens=np.ones(number, dtype=np.int32),
        output_tokens=tokens,
        model=np.array(columns.get("model", [0] * number), dtype=np.int32),
        variant=np.zeros(number, dtype=np.int32),
        replica=np.zeros(number, dtype=np.int32),
    )


def test_unfinished_requests_are_not_within() -> None:
    """A request without its last token is outside the ITL target, without its first outside both."""
    nan = math.nan
    scores = scoring.classes(
        one_model(),
        results([1, 2, 3, 4], ttft=[100, 100, nan, 600], itl=[20, nan, nan, 20]),
    )[0]
    assert (scores.requests, scores.unfinished) == (4, 2)
    assert (scores.within, scores.ttft_within, scores.itl_within) == (0.25, 0.5, 0.5)
    assert scores.ttft_mean_ms == pytest.approx((100 + 100 + 600) / 3)
    assert scores.itl_mean_ms == pytest.approx(20)


@pytest.mark.parametrize(
    "chosen", [[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0], []]
)
def test_rows_pick_what_a_mask_picks(chosen: list[int]) -> None:
    """Neighbours are a view; others, and none at all, come out the same."""
    mask = np.array(chosen, dtype=np.bool_)
    values = np.arange(len(chosen))
    picked = values[scoring.rows(mask)]
    assert picked.tolist() == values[mask].tolist()
    assert np.shares_memory(picked, values) == (chosen not in ([0, 0, 0], [1, 0, 1], []))


def test_curves_hold_each_time_between_two_samples() -> None:
    """Latencies count at the sample at or after them, in a run of more samples than are computed at once."""
    edges = np.array([15.0 * place for place in range(300)], dtype=np.float64)
    rng = np.random.default_rng(3)
    at_ms = np.concatenate([rng.random(3000) * 1000 * (edges[-1] + 60), 1000 * edges, [math.nan]])
    values = rng.random(len(at_ms))
    seen = cluster._binned(edges, at_ms, values)
    for place, edge in enumerate(edges):
        after = edges[place - 1] if place else -1.0
        inside = values[(at_ms / 1000 > after) & (at_ms / 1000 <= edge)]
        assert seen[place] == np.percentile(inside, 95)


def test_targets_are_met_when_reached() -> None:
    """A latency equal to its target is within; beyond either target a request is not."""
    scores = scoring.classes(
        one_model(), results([1, 2, 3], ttft=[500.0, 500.5, 400.0], itl=[24.0, 20.0, 24.5])
    )[0]
    shares = [scores.within, scores.ttft_within, scores.itl_within]
    assert shares == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def test_warm_up_is_not_judged() -> None:
    """Requests that arrive before the warm-up ends count in no number; one that arrives at its end does."""
    scores = scoring.classes(
        one_model(warmUp=60), results([1, 59.9, 60, 61], ttft=[9000, 9000, 100, 200])
    )[0]
    assert (scores.requests, scores.within, scores.ttft_mean_ms) == (2, 1.0, 150)
    none = scoring.classes(one_model(warmUp=90), results([1, 2]))[0]
    assert (none.requests, none.within, math.isnan(none.ttft_mean_ms)) == (0, 1.0, True)


def two_models(first: str, second: str) -> Scenario:
    """Models a and b with targets of their own, variants of `first` and of `second`, in that order."""
    return one_model(
        models=[
            {"model": "a", "slo": {"ttft": 500, "itl": 24}},
            {"model": "b", "slo": {"ttft": 50, "itl": 24}},
        ],
        variants=[
            {"name": f"v-{name}", "model": name, "accelerator": "A100", "profile": PROFILE}
            for name in (first, second)
        ],
    )


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_each_model_is_judged_by_its_own_requests(order: str) -> None:
    """Whatever the order of the variants, a model's requests are held against that model's targets."""
    replay_scenario = two_models(*order)
    given = {"a": generated(duration_seconds=120, rate_rpm=30, seed=1),
             "b": generated(duration_seconds=120, rate_rpm=60, seed=2)}  # fmt: skip
    comparison = compare.compare(replay_scenario, given, ("hpa-kv-cache",))
    classes = comparison.results[0].classes
    assert [item.model for item in classes] == ["a", "b"]
    assert [item.requests for item in classes] == [len(given[name].trace) for name in "ab"]
    by_hand = scoring.classes(
        replay_scenario, results([1, 2, 3], ttft=[100] * 3, model=[order.index(m) for m in "aab"])
    )
    assert [(item.requests, item.within) for item in by_hand] == [(2, 1.0), (1, 0.0)]


def recovery(fine: list[bool], *, length: float | None = None) -> float:
    """Of a request each second."""
    since = np.arange(len(fine), dtype=np.float64)
    return float(scoring._recovery_seconds(since, np.array(fine), length or float(len(fine))))


def test_recovery_measure() -> None:
    """A step is over when 95 % of the requests of the next two minutes are fine."""
    assert recovery([True] * 600) == 0.0
    # Ninety bad ones, of which the last six are 5 % of two minutes.
    assert recovery([False] * 90 + [True] * 510) == 84.0
    assert recovery([True] * 30 + [False] * 60 + [True] * 510) == 84.0
    # One in fifty is bad all the time, and then one in ten.
    assert recovery([False] * 90 + [index % 50 != 0 for index in range(510)]) == pytest.approx(
        87, abs=2
    )
    assert math.isnan(recovery([index % 10 != 0 for index in range(600)]))
    # Within the last quarter it is not over.
    assert math.isnan(recovery([False] * 460 + [True] * 140))
    assert recovery([False] * 440 + [True] * 160) == 434.0
    # Nobody came, so nobody suffered.
    assert recovery([], length=600.0) == 0.0


def test_recovery_of_a_long_step() -> None:
    """A bad time is as long as it is, however long the good one after it."""
    assert recovery([False] * 90 + [True] * 510) == recovery([False] * 90 + [True] * 20_000)


def test_recoveries_are_of_the_steps() -> None:
    """Each step up is measured from its own beginning, up to its own end."""
    arrivals = np.arange(1200.0)
    late = ((arrivals >= 300) & (arrivals < 400)) | (arrivals >= 900)
    seen = results(arrivals.tolist(), ttft=np.where(late, 900.0, 100.0).tolist())
    recoveries = scoring.recoveries(
        one_model(),
        seen,
        {"m": [(300.0, 600.0), (600.0, 900.0), (900.0, 1200.0)], "other": [(0.0, 1.0)]},
    )
    assert recoveries[:2] == (94.0, 0.0)
    assert math.isnan(recoveries[2])
    assert len(recoveries) == 3
    # What comes after its end does not count for a step.
    short = {"m": [(300.0, 430.0)]}
    assert math.isnan(scoring.recoveries(one_model(), seen, short)[0])
