"""The arrivals of a group are those at all its pods, also at those of a variant that has left meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from adapter.collector.traffic import Traffic, TrafficWindow
from adapter.collector.windows.growth import EMPTY
from adapter.collector.windows.paired import PairedWindow
from adapter.controller.groups import pooling

LOOK, RPS, LEAVES = 5.0, 4.0, 200.0


class Pair:
    """Variants `x` and `y`, with a pod each that gets every other request until that of `y` leaves."""

    def __init__(self, times: NDArray[np.float64], *, leaves: float) -> None:
        self.times = times
        self.leaves = leaves
        self.windows: dict[str, TrafficWindow] = {
            key: PairedWindow(window_seconds=60.0, long_seconds=180.0) for key in "xy"
        }
        self.both = TrafficWindow(window_seconds=60.0, long_seconds=180.0)
        self.now = 0.0

    def until(self, end: float) -> None:
        """Look at the pods every few seconds until then."""
        while self.now + LOOK <= end:
            self.now += LOOK
            before = self.times[self.times <= min(self.now, self.leaves)]
            after = len(self.times[self.times <= self.now]) - len(before)
            self._look("x", float(len(before[::2]) + after))
            if self.now <= self.leaves:
                self._look("y", float(len(before[1::2])))
            else:
                self.windows["y"].retain(())
                self.both.retain(("x",))

    def _look(self, key: str, served: float) -> None:
        page = replace(EMPTY, finished=served, ttft=(served, served))
        for window in (self.windows[key], self.both):
            window.add(key, page, now=self.now)

    @property
    def serving(self) -> str:
        """Variants that have pods."""
        return "xy" if self.now <= self.leaves else "x"

    def traffic(self) -> Traffic:
        """Traffic of the group."""
        seen = {key: window.traffic(now=self.now) for key, window in self.windows.items()}
        pooled = pooling.pooled(pooling.with_left(seen, self.windows, self.serving).values())
        traffic = pooling.with_dispersions(pooled, list(self.windows.values()))
        assert traffic is not None
        return traffic


@pytest.mark.parametrize("later", [5.0, 20.0, 40.0, 65.0, 100.0, 150.0])
def test_load_that_changes_over_is_neither_a_rise_nor_a_fall(later: float) -> None:
    """The rate of every window stays that of the arrivals, however long ago the variant left."""
    pair = Pair(np.arange(0.0, 500.0, 1.0 / RPS) + 0.1, leaves=LEAVES)
    pair.until(LEAVES + later)
    traffic = pair.traffic()
    rates = [rate for _, rate in (*traffic.recent, *traffic.sudden)]
    assert [traffic.arrival_rate_rps, traffic.long_rate_rps] == pytest.approx([RPS, RPS], rel=0.02)
    assert rates == pytest.approx([RPS] * len(rates), rel=0.05)


def test_what_left_long_ago_is_nothing() -> None:
    """After the long window nothing of it counts, and its lengths are not known to be anything."""
    pair = Pair(np.arange(0.0, 500.0, 1.0 / RPS), leaves=LEAVES)
    pair.until(LEAVES + 200.0)
    seen = {key: window.traffic(now=pair.now) for key, window in pair.windows.items()}
    assert list(pooling.with_left(seen, pair.windows, pair.serving)) == ["x"]


def test_where_no_pod_is_there_all_is_as_last_seen() -> None:
    """An outage has its own rules; a window without pods is no time without arrivals."""
    pair = Pair(np.arange(0.0, 500.0, 1.0 / RPS), leaves=LEAVES)
    pair.until(LEAVES)
    seen = {key: window.traffic(now=pair.now) for key, window in pair.windows.items()}
    for window in pair.windows.values():
        window.retain(())
    assert pooling.with_left(seen, pair.windows, ()) == seen


def test_pods_that_are_only_not_heard_have_not_left() -> None:
    """What came to them is no less for that: pages that cannot be used say nothing of their load."""
    pair = Pair(np.arange(0.0, 500.0, 1.0 / RPS), leaves=LEAVES)
    pair.until(LEAVES + 20.0)
    seen = {key: window.traffic(now=pair.now) for key, window in pair.windows.items()}
    assert pooling.with_left(seen, pair.windows, "xy") == seen


@pytest.mark.parametrize("seed", range(3))
def test_bunches_are_those_of_all_pods_together(seed: int) -> None:
    """What comes all at once every three seconds reaches both variants; it is as of one window for both."""
    rng = np.random.default_rng(seed)
    times = np.floor(np.sort(rng.uniform(0.0, 400.0, size=int(400.0 * RPS))) / 3.0) * 3.0
    pair = Pair(times, leaves=1000.0)
    pair.until(400.0)
    five, ten = pair.traffic().dispersions
    assert (
        pair.both.traffic(now=pair.now) is not None
    )  # and without what is older than the long window
    assert five == pytest.approx(pair.both.dispersion(5.0))
    assert ten == pytest.approx(pair.both.dispersion(10.0))
    assert five is not None
    assert five > 2.0
