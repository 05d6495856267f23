"""Windows of traces, and their rates scaled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from emulator import traces
from emulator.trace_lines import Lines
from emulator.trace_selection import SPREAD_SECONDS, Selection
from emulator.traces import MAX_REQUESTS, Trace, TraceError

HOUR = traces.generate(
    {
        "kind": "diurnal", "duration_seconds": 3600, "mean_rpm": 300, "amplitude": 0.8,
        "period_seconds": 3600, "seed": 4,
        "tokens": {"input": {"mean": 100, "cv": 1}, "output": {"mean": 50}},
    }
)  # fmt: skip


def test_all_of_a_trace_is_the_trace_itself() -> None:
    """Without a window and a factor nothing is copied or drawn."""
    assert Selection().of(HOUR) is HOUR


def test_a_window_begins_at_0() -> None:
    """Requests of the window keep their lengths and distances; the duration is the window's."""
    part = Selection(start=600, end=1200).of(HOUR)
    inside = (HOUR.arrival_seconds >= 600) & (HOUR.arrival_seconds < 1200)
    assert part.duration_seconds == 600
    assert part.arrival_seconds.tolist() == (HOUR.arrival_seconds[inside] - 600).tolist()
    assert part.input_tokens.tolist() == HOUR.input_tokens[inside].tolist()
    rest = Selection(start=3000).of(HOUR)
    assert rest.duration_seconds == 600
    assert Selection(end=5000).of(HOUR).duration_seconds == 3600


@pytest.mark.parametrize("scale", [0.25, 0.9, 2.0, 3.5])
def test_a_scaled_rate_keeps_its_pattern(scale: float) -> None:
    """Each ten minutes have the scaled number of requests, up to what chance and the spread move."""
    part = Selection(scale=scale).of(HOUR)
    edges = np.arange(0, 3601, 600)
    before, after = (np.histogram(t.arrival_seconds, edges)[0] for t in (HOUR, part))
    assert np.abs(after - scale * before).max() < 5 * math.sqrt(scale * before.max()) + 60
    assert part.duration_seconds == HOUR.duration_seconds
    assert np.mean(part.input_tokens) == pytest.approx(np.mean(HOUR.input_tokens), rel=0.05)
    assert part.arrival_seconds.tolist() == Selection(scale=scale).of(HOUR).arrival_seconds.tolist()


def test_repeated_requests_do_not_arrive_together() -> None:
    """At twice the rate each request is there at its own time and once more within the spread."""
    part = Selection(scale=2).of(HOUR)
    assert len(part) == 2 * len(HOUR)
    assert np.isin(HOUR.arrival_seconds, part.arrival_seconds).all()
    assert len(np.unique(part.arrival_seconds[1:-1])) > 1.95 * len(HOUR)
    assert SPREAD_SECONDS == 15


def test_a_seed_repeats_other_requests() -> None:
    """The same number of them on average, and the same ones for the same seed."""
    first, again, other = (Selection(scale=2.5, seed=seed).of(HOUR) for seed in (1, 1, 2))
    usual = Selection(scale=2.5).of(HOUR)
    assert np.array_equal(first.arrival_seconds, again.arrival_seconds)
    for one, two in ((first, other), (first, usual)):
        assert not np.array_equal(one.arrival_seconds, two.arrival_seconds)
        assert len(one) == pytest.approx(len(two), rel=0.05)


def test_steps_move_with_the_window() -> None:
    """Upward steps that begin in the window count from its beginning and end with it at the latest."""
    steps = ((300.0, 900.0), (1200.0, 3000.0))
    assert Selection(start=200, end=2000).steps(steps) == ((100, 700), (1000, 1800))
    assert Selection(start=600).steps(steps) == ((600, 2400),)
    assert Selection().steps(steps) == steps


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scale": 0}, "scale: must be > 0"),
        ({"scale": math.nan}, "scale: must be > 0"),
        ({"start": 60, "end": 60}, "window: must begin at >= 0 and end later, not 60 to 60 s"),
        ({"start": -1}, "window: must begin at >= 0"),
    ],
)
def test_wrong_selections(fields: dict[str, Any], said: str) -> None:
    """A factor is above 0, and a window ends after its beginning."""
    with pytest.raises(TraceError, match=said):
        Selection(**fields)


def test_nothing_is_left() -> None:
    """A window or a factor that leaves no request says what there is."""
    with pytest.raises(
        TraceError, match=r"has no request from 4000 s to the end; it has \d+ in 3600 s"
    ):
        Selection(start=4000).of(HOUR)
    with pytest.raises(TraceError, match="has no request left at 1e-06 of its rate"):
        Selection(scale=1e-6).of(HOUR)


@pytest.mark.parametrize("scale", [1e7, 1e308])
def test_a_scale_of_more_requests_than_memory_holds_is_refused(scale: float) -> None:
    """Before any is made; the sentence says which scale is accepted."""
    most = MAX_REQUESTS / len(HOUR)
    with pytest.raises(TraceError, match=rf"--scale: must be at most {most:.6g} for its"):
        Selection(scale=scale).of(HOUR)


def from_file(*arrivals: float) -> Trace:
    """A trace of a file whose first request is in line 2."""
    ones = np.ones(len(arrivals), dtype=np.int64)
    return Trace(
        arrival_seconds=np.array(arrivals),
        input_tokens=ones,
        output_tokens=ones,
        duration_seconds=arrivals[-1],
        lines=Lines("t.csv", np.arange(len(arrivals)) + 2),
    )


DAY = 86400.0


@pytest.mark.parametrize(
    ("arrivals", "window", "said"),
    [
        (
            (0, 10, 20, 40 * DAY),
            {},
            r"t\.csv:5: 40 days, .* after the request before; correct or delete",
        ),
        (
            (0, 40 * DAY, 40 * DAY + 1, 40 * DAY + 2),
            {},
            r"t\.csv:2: 40 days, .* before the next request",
        ),
        (
            (0, 10, 3700),
            {},
            r"t\.csv:4: 1\.0 hours, more than ten times all the rest .* by --from and --to",
        ),
        (
            (0, 10, 40 * DAY),
            {"end": 3 * DAY},
            r"t\.csv:3: 3 days, .* before the window's end; choose",
        ),
        (
            (0, 40 * DAY, 40 * DAY + 1),
            {"start": DAY},
            r"t\.csv:3: 39 days, .* after the window's beginning",
        ),
    ],
)
def test_a_gap_that_is_most_of_a_file_is_refused(
    arrivals: tuple[float, ...], window: dict[str, Any], said: str
) -> None:
    """One wrong date would make a replay of years; its line is named, of two sides that of the fewer."""
    with pytest.raises(TraceError, match=said):
        Selection(**window).of(from_file(*arrivals))


def test_usual_gaps_and_windows_without_the_wrong_date_stay() -> None:
    """Nights are shorter than the rest, short files may have gaps, and a window leaves a stray date out."""
    assert len(Selection().of(from_file(0, 3500))) == 2
    assert len(Selection().of(from_file(0, 8 * 3600, 20 * 3600, 28 * 3600))) == 4
    part = Selection(start=5, end=3600, scale=2).of(from_file(0, 10, 20, 40 * DAY))
    assert part.lines is not None
    assert part.lines.numbers.tolist() == [3, 3, 4, 4]
    assert part.lines.where(0) == "t.csv:3"
