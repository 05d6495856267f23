"""What is kept free of a percentile's rate: less for the laxer one, without jumps."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from analyzer.engine import kept_free
from analyzer.engine.columns import Engines
from analyzer.engine.crowding import KV_TAIL_HEADROOM
from analyzer.engine.kept_free import Ends, Misses
from analyzer.engine.sizing import size_engine, size_engines
from tests.analyzer.engine.test_single import drawn

HEADROOM = 0.05
PERCENTILES = np.concatenate(([0.5, 0.7, 0.8], np.linspace(0.85, 0.999, 150)))
COARSE = np.concatenate(([0.5, 0.7, 0.85], np.linspace(0.9, 0.98, 9), [0.982, 0.99, 0.995, 0.999]))


class Rises(NamedTuple):
    """Scores of misses that rise evenly with the rate: `rise` each, and 0 at `middle`."""

    middle: float
    rise: float

    def score(self, rate: np.ndarray) -> np.ndarray:
        return np.asarray(self.rise * (rate - self.middle))

    def rate(self, share: np.ndarray | float) -> np.ndarray:
        return np.asarray(self.middle + special.ndtri(share) / self.rise)


rising = st.builds(Rises, st.floats(0.8, 1.6), st.floats(5.0, 200.0))


def rates(late: Rises, slow: Rises, waits: Rises, most_rps: float, *, kv_binds: bool) -> np.ndarray:
    """Rates of `PERCENTILES` of a replica whose latencies rise so; none holds more than `most_rps`."""
    allowed = 1.0 - PERCENTILES
    held = np.minimum(np.minimum(late.rate(allowed), slow.rate(allowed)), most_rps)
    binds = np.full(allowed.size, kv_binds)
    headroom = np.full(allowed.size, HEADROOM)
    most = kept_free.most_kept(headroom, np.where(binds, KV_TAIL_HEADROOM, 0.0))
    at, less = (
        Misses(late.score(rate), slow.score(rate), waits.score(rate))
        for rate in (held, held * (1.0 - most))
    )
    ends = Ends(at, less, most, most, most_rps / held - 1.0)
    return np.asarray(held * kept_free.held(ends, allowed, headroom, binds))


@given(late=rising, slow=rising, waits=rising, most_rps=st.floats(0.8, 1.5), kv_binds=st.booleans())
def test_stricter_percentiles_get_less_without_jumps(
    late: Rises, slow: Rises, waits: Rises, most_rps: float, *, kv_binds: bool
) -> None:
    """Where scores rise evenly, rates never rise with the percentile, nor jump between two that are near.

    No rate moves more than the percentiles' own do.
    """
    some = rates(late, slow, waits, most_rps, kv_binds=kv_binds)
    steps = -np.diff(some)
    assert steps.min() >= -1e-9
    scores = np.diff(special.ndtri(PERCENTILES))
    reserved = np.diff(special.ndtri(1.0 - (1.0 - kept_free.MISS_RESERVE) * (1.0 - PERCENTILES)))
    widest = np.maximum(scores, reserved) / min(late.rise, slow.rise)
    assert np.all(steps <= widest + 1e-9)


@pytest.mark.parametrize("searched", ["rows", "one"])
def test_largest_rates_never_rise_with_the_percentile(searched: str) -> None:
    """Of drawn replicas, half of them bound by the KV cache and a TTFT alone, within what a search leaves."""
    seen = 0
    for number, (engine, (ttft_ms, itl_ms, _)) in enumerate(drawn(24, 11)):
        targets = {"ttft_ms": ttft_ms} if number % 2 else {"ttft_ms": ttft_ms, "itl_ms": itl_ms}
        if searched == "one":
            each = [size_engine(engine, percentile=share, **targets) for share in COARSE]
            some = np.array([one.rate_rps for one in each])
        else:
            many = Engines.of([engine] * COARSE.size)
            some = size_engines(many, percentile=COARSE, **targets).rate_rps
        some = np.nan_to_num(some)
        assert np.all(some[1:] <= 1.005 * some[:-1]), (number, some)
        seen += int(some[-1] > 0.0)
    assert seen > 8


def test_a_full_kv_cache_takes_more_of_laxer_percentiles_up_to_that_of_p99() -> None:
    """Where a cliff is as steep as can be, p95 gets what p99 does; where misses rise slowly, 9 % are free."""
    waits = Rises(1.0, 2000.0)
    steep = rates(waits, Rises(9.0, 9.0), waits, 2.0, kv_binds=True)
    at = {share: int(np.argmin(np.abs(PERCENTILES - share))) for share in (0.95, 0.99)}
    assert steep[at[0.95]] == pytest.approx(steep[at[0.99]], rel=1e-3)
    flat = rates(Rises(1.2, 5.0), Rises(9.0, 9.0), Rises(0.3, 9.0), 2.0, kv_binds=True)
    root = float(Rises(1.2, 5.0).rate(1.0 - PERCENTILES[at[0.95]]))
    assert flat[at[0.95]] == pytest.approx(0.91 * root)
    assert not math.isclose(flat[at[0.95]], flat[at[0.99]], rel_tol=0.05)
