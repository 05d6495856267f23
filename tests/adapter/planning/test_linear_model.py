"""Options of alpha to delta: replicas behind a least-loaded gateway, for arrivals in bursts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from adapter.planning.linear_model import LinearModel
from adapter.planning.options import Requirements
from analyzer.queueing import Replica, Replicas

REPLICA = Replica(
    alpha_ms=20.0, beta_ms=0.4, gamma_ms=5.0, delta_ms=0.05, input_tokens=128, output_tokens=128,
    max_batch=16, max_queue=160,
)  # fmt: skip
RATES = np.linspace(0.05, 40.0, 200)


def needed(dispersion: float) -> list[int]:
    """Replicas for each of `RATES`, with a p95."""
    rows = RATES.size

    def column(value: float) -> np.ndarray:
        return np.full(rows, value)

    asked = Requirements(
        rate_rps=RATES,
        ttft_ms=column(400.0),
        itl_ms=column(30.0),
        tps=column(math.nan),
        percentile=column(0.95),
        margin=column(0.1),
        step_margin=column(0.05),
        shared=np.ones(rows, dtype=np.bool_),
        dispersion=column(dispersion),
    )
    sized = LinearModel(Replicas.of([REPLICA] * rows)).size(asked)
    return [int(number) for number in sized.needed]


@pytest.mark.parametrize("dispersion", [1.0, 1.5, 4.0, 16.0])
def test_more_load_in_bursts_needs_no_fewer_replicas(dispersion: float) -> None:
    """Whatever the arrivals vary by, the number never falls when the rate rises."""
    replicas = needed(dispersion)
    assert all(few <= many for few, many in itertools.pairwise(replicas))
    assert len(set(replicas)) > 5


def test_bursts_need_more_replicas_by_their_standard_deviation() -> None:
    """Sixteen times the variance of the counts needs up to four times the spare, and never less of it."""
    plain, bursts = np.array(needed(1.0)), np.array(needed(16.0))
    assert np.all(bursts >= plain)
    busy = RATES / REPLICA.max_rate_rps
    assert np.all(bursts[busy > 1.0] <= np.ceil(busy + 4.0 * (plain - busy))[busy > 1.0])
