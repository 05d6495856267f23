"""A discrete-event simulation of the replica, request by request, agrees with the formulas.

It knows nothing of states. Requests arrive, wait in line while the batch is full, are
worked on together at a speed that depends on how many they are, and leave when their own work is done.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

import numpy as np
import pytest
from scipy import stats

from analyzer import queueing
from analyzer.queueing import Replica

BATCHES = 20
REQUESTS = 10_000
"""Arrivals per batch; the first batch is the warm-up."""


class Simulation:
    """One run: what every accepted request saw, by batches of arrivals."""

    def __init__(self, replica: Replica, rate_rps: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        arrivals = BATCHES * REQUESTS
        times = np.cumsum(rng.exponential(1000.0 / rate_rps, arrivals))
        works = rng.exponential(1.0, arrivals)
        self.waiting: list[list[float]] = [[] for _ in range(BATCHES)]
        self.joined: list[list[int]] = [[] for _ in range(BATCHES)]
        self.service: list[list[float]] = [[] for _ in range(BATCHES)]
        self.blocked = [0] * BATCHES
        line: deque[int] = deque()
        # Everyone in the batch is worked on at the same speed, so work done is one number for all:
        # a request leaves when that number has grown by its own work.
        serving: list[tuple[float, int]] = []
        started: dict[int, float] = {}
        done, now, following = 0.0, 0.0, 0
        while following < arrivals or serving:
            speed = 1.0 / replica.request_ms(len(serving)) if serving else 0.0
            leaves = now + (serving[0][0] - done) / speed if serving else math.inf
            arrives = times[following] if following < arrivals else math.inf
            if arrives < leaves:
                done += (arrives - now) * speed
                now, who, part = float(arrives), following, following // REQUESTS
                following += 1
                if len(serving) < replica.max_batch:
                    heapq.heappush(serving, (done + works[who], who))
                    started[who] = now
                    self.waiting[part].append(0.0)
                    self.joined[part].append(len(serving))
                elif len(line) < replica.max_queue:
                    line.append(who)
                else:
                    self.blocked[part] += 1
                continue
            done += (leaves - now) * speed
            now = leaves
            _, who = heapq.heappop(serving)
            self.service[who // REQUESTS].append(now - started.pop(who))
            if line:
                who = line.popleft()
                heapq.heappush(serving, (done + works[who], who))
                started[who] = now
                self.waiting[who // REQUESTS].append(now - times[who])
                self.joined[who // REQUESTS].append(replica.max_batch)


def agrees(samples: list[float], formula: float, *, resolution: float = 0.0) -> bool:
    """Whether the formula is in the 99.9 % confidence interval of the mean of the parts."""
    kept = np.array(samples[1:])
    half = stats.t.ppf(0.9995, kept.size - 1) * kept.std(ddof=1) / math.sqrt(kept.size)
    return bool(abs(kept.mean() - formula) <= half + resolution)


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.7, 0.9, 1.1])
@pytest.mark.parametrize(
    "replica",
    [
        Replica(
            alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1,
            input_tokens=128, output_tokens=178, max_batch=4, max_queue=40,
        ),
        Replica(
            alpha_ms=7, beta_ms=0.3, gamma_ms=40, delta_ms=0.02,
            input_tokens=900, output_tokens=60, max_batch=24, max_queue=12,
        ),
    ],
    ids=["small", "large"],
)  # fmt: skip
def test_the_simulation_agrees(replica: Replica, load: float) -> None:
    """Means, shares and percentiles of the formulas lie in the simulation's confidence intervals."""
    rate = load * replica.max_rate_rps
    run = Simulation(replica, rate, seed=20250813)
    steady = queueing.analyze(replica, rate)
    at = queueing.percentiles(replica, rate, 0.95)
    waiting = [np.array(part) for part in run.waiting]
    joined = [np.array(part) for part in run.joined]
    assert agrees([part.mean() for part in waiting], steady.waiting_ms)
    assert agrees([float(np.mean(part)) for part in run.service], steady.service_ms)
    assert agrees([part.mean() for part in joined], steady.batch)
    few = 5 / (BATCHES * REQUESTS)  # events so rare that a run of this length need not see one
    assert agrees([blocked / REQUESTS for blocked in run.blocked], steady.blocking, resolution=few)
    ttft = [
        wait + replica.prefill_ms(0) + (replica.prefill_ms(1) - replica.prefill_ms(0)) * batch
        for wait, batch in zip(waiting, joined, strict=True)
    ]
    assert agrees([part.mean() for part in ttft], steady.ttft_ms)
    if at.waiting_ms > 0:
        assert agrees([float((part > at.waiting_ms).mean()) for part in waiting], 0.05)
        assert agrees([float((part > at.ttft_ms).mean()) for part in ttft], 0.05)
    assert agrees(
        [
            float((part > (at.itl_ms - replica.alpha_ms) / replica.beta_ms + 1e-9).mean())
            for part in joined
        ],
        exceeding(replica, rate, at.itl_ms),
    )


def exceeding(replica: Replica, rate: float, itl_ms: float) -> float:
    """Share of accepted requests that join a batch slower than `itl_ms`, from the states directly."""
    weights = [1.0]
    for state in range(1, replica.max_batch + replica.max_queue):
        busy = min(state, replica.max_batch)
        weights.append(weights[-1] * rate * replica.request_ms(busy) / (1000.0 * busy))
    slower = [
        weight
        for state, weight in enumerate(weights)
        if replica.decode_ms(min(state + 1, replica.max_batch)) > itl_ms + 1e-9
    ]
    return sum(slower) / sum(weights)
