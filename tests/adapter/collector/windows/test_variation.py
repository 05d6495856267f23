"""The variation of lengths: over a start-up, while means and rates keep their windows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from adapter.collector.servers.totals import NO_SHORT, Moments
from adapter.collector.traffic import VARIATION_LIMIT_SECONDS, Traffic, TrafficWindow
from adapter.collector.windows.growth import EMPTY

NOW, LATE = 1500, 300


def traffic(startup: float | None) -> Traffic:
    """One request a second of 100 tokens; in the last 300 of 1,500 seconds two, of 50 and 150 in turn.

    Prompts of these are twice as long.
    """
    window = TrafficWindow(window_seconds=60, long_seconds=180)
    window.foresee(startup)
    for second in range(0, NOW + 1, 10):
        late = 2.0 * max(second - (NOW - LATE), 0)
        finished = second + late / 2
        squares = 100.0**2 * (finished - late) + (50.0**2 + 150.0**2) / 2 * late
        page = replace(
            EMPTY,
            finished=finished,
            prompt_tokens=(10.0 * (finished + late), finished),
            generation_tokens=(100.0 * finished, finished),
            output_moments=Moments(100.0 * finished, squares, finished, NO_SHORT),
        )
        window.add("a", page, now=second)
        if second % 30 == 0:
            window.traffic(now=second)
    seen = window.traffic(now=NOW)
    assert seen is not None
    return seen


@pytest.mark.parametrize(
    ("startup", "seconds"), [(None, 180), (60.0, 180), (600.0, 600), (3600.0, 900)]
)
def test_the_variation_is_taken_over_a_startup(startup: float | None, seconds: int) -> None:
    """Half of the mean where all vary, and less where requests of the time before count too."""
    assert seconds <= VARIATION_LIMIT_SECONDS
    late = 2 * min(seconds, LATE)
    share = late / (seconds + late / 2)
    assert traffic(startup).output_cv == pytest.approx(0.5 * math.sqrt(share))


def test_a_startup_leaves_means_and_rates() -> None:
    """All else is that of a variant that starts at once."""
    slow, quick = traffic(600.0), traffic(None)
    assert slow.long_rate_rps == pytest.approx(2.0)
    assert slow.steady is not None
    assert slow.steady.input_tokens == pytest.approx(20.0)
    assert replace(slow, output_cv=quick.output_cv) == quick
