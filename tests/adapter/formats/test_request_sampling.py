"""What is drawn: sums and bounds of lengths, order, gaps, and that equal seeds draw equal requests."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.errors import InputError
from adapter.formats.request_history import LengthCounts, Step
from adapter.formats.request_sampling import RequestSampler, SamplerState, draw_lengths

BOUNDS = (0.0, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0, math.inf)


@st.composite
def observed(draw: st.DrawFn) -> list[int]:
    """Lengths of the requests of one step."""
    return draw(st.lists(st.integers(1, 5000), min_size=1, max_size=60))


def counts(lengths: list[int]) -> LengthCounts:
    """As a histogram has them."""
    buckets: dict[tuple[float, float], float] = {}
    for length in lengths:
        upper = next(bound for bound in BOUNDS[1:] if length <= bound)
        bucket = (BOUNDS[BOUNDS.index(upper) - 1], upper)
        buckets[bucket] = buckets.get(bucket, 0.0) + 1
    return LengthCounts(tokens=sum(lengths), count=len(lengths), buckets=buckets)


@given(observed(), st.integers(0, 2**32))
def test_drawn_lengths_have_the_sum_and_the_buckets_of_the_observed_ones(
    lengths: list[int], seed: int
) -> None:
    """Whatever they were: the same number, the same sum, the same number in each bucket."""
    known = counts(lengths)
    drawn = draw_lengths(known, len(lengths), np.random.default_rng(seed), least=1)
    assert drawn.sum() == sum(lengths)
    assert counts(drawn.tolist()).buckets == known.buckets


def test_without_a_histogram_lengths_are_the_mean() -> None:
    """To one token, with the sum of the counters."""
    known = LengthCounts(tokens=103, count=10)
    drawn = draw_lengths(known, 10, np.random.default_rng(0), least=1)
    assert sorted(drawn.tolist()) == [10] * 7 + [11] * 3


def step(index: int, **more: float) -> Step:
    """One of a pod, ten seconds long, whose requests have 5 and 7 tokens."""
    finished = more.get("finished", 0.0)
    return Step(
        start=10.0 * index,
        seconds=10.0,
        pods=int(more.get("pods", 1)),
        arrivals=more.get("arrivals", 0.0),
        finished=finished,
        in_service_before=more.get("before", 0.0),
        in_service_joined=more.get("joined", 0.0),
        inputs=LengthCounts(tokens=5 * finished, count=finished),
        outputs=LengthCounts(tokens=7 * finished, count=finished),
    )


def test_requests_keep_their_arrival_until_they_finish() -> None:
    """Arrivals of a step get their lengths from the steps in which requests finish, in order."""
    sampler = RequestSampler(seed=1)
    assert sampler.add(step(0, arrivals=3)) == []
    requests = sampler.add(step(1, arrivals=1, finished=2))
    requests += sampler.add(step(2, finished=2))
    assert [int(request.arrival // 10) for request in requests] == [0, 0, 0, 1]
    assert requests == sorted(requests)
    assert {request[1:] for request in requests} == {(5, 7)}


def test_what_was_in_service_before_is_not_of_the_recording() -> None:
    """The first to finish arrived before it began."""
    sampler = RequestSampler(seed=1)
    assert sampler.add(step(0, arrivals=1, finished=2, before=2)) == []
    assert len(sampler.add(step(1, finished=1))) == 1


def test_a_gap_ends_what_was_open() -> None:
    """Requests from before it get the lengths of others; none is made of the time between."""
    sampler = RequestSampler(seed=1)
    sampler.add(step(0, arrivals=3, finished=1))
    after = sampler.add(step(1, pods=0))
    assert [int(request.arrival // 10) for request in after] == [0, 0]
    assert sampler.state.unfinished == 2
    assert sampler.add(step(2, finished=2, before=2)) == []
    assert sampler.finish() == []


def test_clients_that_go_away_take_arrivals_back() -> None:
    """A stock that falls without completions is subtracted from the arrivals after it."""
    sampler = RequestSampler(seed=1)
    sampler.add(step(0, arrivals=-2, before=2))
    sampler.add(step(1, arrivals=5, finished=1))
    assert len(sampler.state.pending) + 0 == 3
    assert sampler.state.arrivals_left == 0


def test_a_resumed_sampler_draws_the_same() -> None:
    """Its state goes through JSON in the middle."""
    steps = [step(index, arrivals=4.5, finished=3.5) for index in range(6)]
    whole = RequestSampler(seed=3)
    expected = [request for one in steps for request in whole.add(one)] + whole.finish()
    first = RequestSampler(seed=3)
    requests = [request for one in steps[:3] for request in first.add(one)]
    state = SamplerState.from_json(json.loads(json.dumps(first.state.to_json())))
    second = RequestSampler(seed=3, state=state)
    requests += [request for one in steps[3:] for request in second.add(one)] + second.finish()
    assert requests == expected
    other = RequestSampler(seed=4)
    assert [request for one in steps for request in other.add(one)] != expected


def test_a_count_that_is_no_measurement_is_refused() -> None:
    """It would fill the disk."""
    with pytest.raises(InputError, match="no measurement"):
        RequestSampler(seed=0).add(step(0, arrivals=1e12))
