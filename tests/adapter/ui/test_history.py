"""Six hours in memory: means that coarsen with age, bounds, and what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adapter.ui import history
from adapter.ui.history import History
from adapter.ui.rows import Row

START = 1_800_000_000.0


def row(name: str = "v", *, offered: float | None = 60.0) -> Row:
    return Row(namespace="n", name=name, offered=offered)


def filled(seconds: float, *, rate: float = 60.0) -> History:
    """A history of one variant, sampled as the program does."""
    kept = History()
    for step in range(int(seconds // history.SAMPLE_SECONDS)):
        kept.record(START + step * history.SAMPLE_SECONDS, [row(offered=rate + step % 6)])
    return kept


def test_times_are_ordered_without_overlap_and_reach_six_hours() -> None:
    """After eight hours the series spans six, in slots of 300, 60 and 10 s that follow each other."""
    kept = filled(8 * 3600)
    now = START + 8 * 3600
    series = kept.series("n/v", now=now)
    assert series is not None
    starts, ends = series.times - series.seconds / 2, series.times + series.seconds / 2
    assert np.all(starts[1:] >= ends[:-1] - 1e-6)
    assert np.all(starts[1:] - ends[:-1] <= 300.0)
    assert series.times[0] >= now - history.SPAN_SECONDS
    assert series.times[0] < now - history.SPAN_SECONDS + 600
    assert series.times[-1] > now - 20
    assert sorted(set(series.seconds)) == [10.0, 60.0, 300.0]
    # Six samples of 60 to 65 have a mean of 62.5.
    assert series.values["offered"][series.seconds == 300.0] == pytest.approx(62.5, abs=0.1)


def test_gaps_are_unknown_and_no_old_samples_come_back() -> None:
    """Where nothing was recorded nothing is shown, even after the rings went round."""
    kept = filled(1200)
    later = START + 1200 + 3 * 3600
    kept.record(later, [row(offered=None)])
    kept.record(later, [row(offered=math.inf)])
    series = kept.series("n/v", now=later + 1)
    assert series is not None
    assert math.isnan(series.values["offered"][-1])
    between = (series.times > START + 1500) & (series.times < later - 300)
    assert not between.any()


def test_a_variant_that_is_gone_leaves_nothing_to_its_successor() -> None:
    """A row that is used again starts empty."""
    kept = filled(600)
    kept.record(START + 600, [row("other", offered=1.0)])
    assert kept.series("n/v", now=START + 610) is None
    series = kept.series("n/other", now=START + 610)
    assert series is not None
    known = series.values["offered"][~np.isnan(series.values["offered"])]
    assert set(known) == {1.0}


def test_memory_is_bounded() -> None:
    """1,000 variants take what the module says, 3,000 no more than the limit of 2,000."""
    kept = History()
    kept.record(START, [row(f"v{n}") for n in range(1000)])
    assert kept.nbytes <= 1024 * 11_620
    kept.record(START + 10, [row(f"v{n}") for n in range(3000)])
    assert kept.unrecorded == 1000
    assert kept.nbytes <= history.MOST_VARIANTS * 11_800


def test_sampling_in_steps_is_sampling_at_once() -> None:
    """Others have their turn between two steps; what is recorded then is the same, also of new variants."""
    rows = [row(f"v{number}", offered=None if number % 3 else number) for number in range(250)]
    stepwise, at_once = History(), History()
    for now, some in ((START, rows[:200]), (START + history.SAMPLE_SECONDS, rows)):
        assert len(list(stepwise.sampling(some))) >= 2
        assert list(stepwise.sampling(some)) == []
        stepwise.record(now, some)
        at_once.record(now, some)
    for item in rows:
        one, other = (kept.series(item.key, now=START + 60) for kept in (stepwise, at_once))
        assert one is not None
        assert other is not None
        for name in history.FIELDS:
            np.testing.assert_array_equal(one.values[name], other.values[name])
    series = stepwise.series("n/v3", now=START + 60)
    assert series is not None
    assert series.values["offered"].tolist() == [3.0, 3.0]
