"""A part of a trace, and its rate scaled.

The time pattern stays: where a rate is scaled, requests are left out or repeated, and nothing is compressed.
A repeated request arrives up to `SPREAD_SECONDS` before or after the original.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from emulator.trace_lines import also
from emulator.traces import MAX_REQUESTS, Trace, TraceError

SPREAD_SECONDS = 15.0
_HOUR, _DAY = 3600.0, 86400.0

_MOST_OF_REST = 10.0
"""Longest gap that is no sign of a wrong date, in multiples of the rest of the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A time window of a trace, and a factor on its rate.

    Attributes:
        scale: Factor on the rate, > 0.
        start: Beginning of the window, seconds since the trace's.
        end: End of the window, seconds since the trace's beginning; inf for the trace's end.
        seed: Other repeated requests, at other times; 0 for those that every other command takes.

    """

    scale: float = 1.0
    start: float = 0.0
    end: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise TraceError(f"scale: must be > 0 and finite, not {self.scale:g}")
        if not 0 <= self.start < self.end:
            raise TraceError(
                f"window: must begin at >= 0 and end later, not {self.start:g} to {self.end:g} s"
            )

    def of(self, trace: Trace) -> Trace:
        """The selected part of a trace, its window's beginning at 0; the trace itself for all of it.

        Raises:
            TraceError: The window has no request, or one gap is most of it, as of a wrong date.

        """
        if self.start > 0 or self.end < math.inf:
            trace = self._window(trace)
        _check_gaps(trace)
        return trace if self.scale == 1 else self._scaled(trace)

    def steps(self, steps: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        """Start and end in seconds of each upward step of the load that begins within the window."""
        return tuple(
            (begin - self.start, min(end, self.end) - self.start)
            for begin, end in steps
            if self.start <= begin < self.end
        )

    def _window(self, trace: Trace) -> Trace:
        arrivals = trace.arrival_seconds
        inside = (arrivals >= self.start) & (arrivals < self.end)
        if not inside.any():
            until = "the end" if self.end == math.inf else f"{self.end:g} s"
            raise TraceError(
                f"{trace.name}: has no request from {self.start:g} s to {until};"
                f" it has {len(trace)} in {trace.duration_seconds:g} s{also(trace.left_out)}"
            )
        return replace(
            trace,
            arrival_seconds=arrivals[inside] - self.start,
            input_tokens=trace.input_tokens[inside],
            output_tokens=trace.output_tokens[inside],
            duration_seconds=min(self.end, trace.duration_seconds) - self.start,
            lines=None if trace.lines is None else trace.lines.taken(inside),
        )

    def _scaled(self, trace: Trace) -> Trace:
        if self.scale * len(trace) > MAX_REQUESTS:
            raise TraceError(
                f"{trace.name}: --scale: must be at most {MAX_REQUESTS / len(trace):.6g} for its"
                f" {len(trace)} requests, not {self.scale:g}: at most {MAX_REQUESTS} are replayed"
            )
        rng = np.random.default_rng([len(trace), self.seed] if self.seed else len(trace))
        whole, rest = divmod(self.scale, 1.0)
        copies = int(whole) + (rng.random(len(trace)) < rest)
        taken = np.repeat(np.arange(len(trace)), copies)
        arrivals = trace.arrival_seconds[taken]
        repeated = np.concatenate(([False], taken[1:] == taken[:-1])) if len(taken) else taken > 0
        shifts = rng.uniform(-SPREAD_SECONDS, SPREAD_SECONDS, len(taken))
        arrivals = np.clip(arrivals + np.where(repeated, shifts, 0.0), 0.0, trace.duration_seconds)
        if not len(arrivals):
            raise TraceError(
                f"{trace.name}: has no request left at {self.scale:g} of its rate; it has {len(trace)}"
            )
        order = np.argsort(arrivals, kind="stable")
        return replace(
            trace,
            arrival_seconds=arrivals[order],
            input_tokens=trace.input_tokens[taken][order],
            output_tokens=trace.output_tokens[taken][order],
            lines=None if trace.lines is None else trace.lines.taken(taken[order]),
        )


def _check_gaps(trace: Trace) -> None:
    """Raise TraceError where a gap of a file's trace is over an hour, and ten times as long as all the rest.

    At the window's ends, which the user chooses, over a day. A quiet night is none.
    """
    if trace.lines is None or not len(trace):
        return
    edges = np.concatenate(([0.0], trace.arrival_seconds, [trace.duration_seconds]))
    gaps = np.diff(edges)
    after = int(np.argmax(gaps))  # the gap before the request of this index
    gap, count = float(gaps[after]), len(trace)
    at_end = after in {0, count}
    rest = trace.duration_seconds - gap
    if gap <= max(_MOST_OF_REST * rest, _DAY if at_end else _HOUR):
        return
    # The fewer requests are the stray ones.
    index, than = after, "after the request before; correct or delete the line, or choose a window"
    if after == 0:
        than = "after the window's beginning; choose another window"
    elif after == count:
        index, than = count - 1, "before the window's end; choose another window"
    elif after < count - after:
        index = after - 1
        than = than.replace("after the request before", "before the next request")
    raise TraceError(
        f"{trace.lines.where(index)}: {_long(gap)}, more than ten times all the rest of the trace, {than}"
        " by --from and --to"
    )


def _long(seconds: float) -> str:
    return f"{seconds / _DAY:,.0f} days" if seconds >= 2 * _DAY else f"{seconds / _HOUR:.1f} hours"
