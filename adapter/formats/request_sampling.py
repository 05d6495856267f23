"""Single requests drawn from counts per step: what a rate series cannot restore is drawn, with a seed.

Arrivals of a step are placed uniformly in it, which is a Poisson process given their number. Lengths are
drawn within the histogram's buckets and then moved within them until their sum is that of the step. The
requests that finish first are taken to be those that arrived first, so lengths go to arrivals in order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapter.errors import InputError
from adapter.formats.request_history import LengthCounts, Step

IntArray = npt.NDArray[np.int64]
_LARGEST_STEP = 10_000_000
_RECENT = 256
"""Lengths that are kept to draw from for requests whose own are not known."""


class Request(NamedTuple):
    """One request: arrival in Unix seconds, and its tokens."""

    arrival: float
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class SamplerState:
    """What one step leaves to the next, JSON-compatible.

    Attributes:
        step: Number of steps so far.
        pending: Arrivals whose requests have not finished yet, Unix seconds, oldest first.
        earlier: Requests in service that arrived before the recording, or before the end of a gap.
        arrivals_left: Fraction or deficit of arrivals that the next step takes over.
        finished_left: Fraction of finished requests, likewise.
        recent: Input and output tokens of the latest finished requests.
        after_gap: Whether nothing is known of the step before.
        dropped: Requests that finished and whose arrival is not known.
        unfinished: Arrivals whose lengths were drawn from those of others.

    """

    step: int = 0
    pending: deque[float] = field(default_factory=deque)
    earlier: int = 0
    arrivals_left: float = 0.0
    finished_left: float = 0.0
    recent: list[tuple[int, int]] = field(default_factory=list)
    after_gap: bool = True
    dropped: int = 0
    unfinished: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "pending": list(self.pending)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SamplerState:
        """The state that `to_json` wrote.

        Raises:
            TypeError, ValueError, KeyError: it is no such state.

        """
        recent = [(int(one), int(other)) for one, other in document["recent"]]
        return cls(**{**document, "pending": deque(document["pending"]), "recent": recent})


class RequestSampler:
    """Draws requests step by step; equal steps, state and seed give equal requests."""

    def __init__(self, *, seed: int, state: SamplerState | None = None) -> None:
        """`seed` >= 0; `state`: to go on from."""
        self._seed = seed
        self.state = state or SamplerState()

    def add(self, step: Step) -> list[Request]:
        """Requests that are complete with this step, by arrival.

        Raises:
            InputError: a step of more requests than any fleet serves.

        """
        state = self.state
        rng = np.random.default_rng([self._seed, state.step])
        state.step += 1
        if step.pods == 0:
            complete = self._flush(rng)
            state.after_gap = True
            return complete
        if state.after_gap:
            state.earlier, state.after_gap = round(step.in_service_before), False
        number, state.arrivals_left = _whole(step.arrivals + state.arrivals_left, step)
        state.pending.extend(np.sort(step.start + step.seconds * rng.random(number)).tolist())
        finished, state.finished_left = _whole(step.finished + state.finished_left, step)
        lengths = self._lengths(step, finished, rng)
        before = min(state.earlier, len(lengths))
        state.earlier += round(step.in_service_joined) - before
        complete = []
        for inputs, outputs in lengths[before:]:
            if state.pending:
                complete.append(Request(state.pending.popleft(), inputs, outputs))
            else:
                state.dropped += 1
        return complete

    def finish(self) -> list[Request]:
        """The requests that have not finished by the end."""
        return self._flush(np.random.default_rng([self._seed, self.state.step]))

    def _lengths(self, step: Step, number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        inputs = draw_lengths(step.inputs, number, rng, least=0)
        outputs = draw_lengths(step.outputs, number, rng, least=1)
        lengths = list(zip(inputs.tolist(), outputs.tolist(), strict=True))
        if lengths:
            self.state.recent = lengths[-_RECENT:]
        return lengths

    def _flush(self, rng: np.random.Generator) -> list[Request]:
        """Arrivals without an end, with the lengths of others."""
        state = self.state
        arrivals = list(state.pending)
        state.pending.clear()
        state.arrivals_left = state.finished_left = 0.0
        state.earlier = 0
        if not state.recent:
            state.dropped += len(arrivals)
            return []
        state.unfinished += len(arrivals)
        chosen = rng.integers(len(state.recent), size=len(arrivals)).tolist()
        return [
            Request(at, *state.recent[index]) for at, index in zip(arrivals, chosen, strict=True)
        ]


def _whole(value: float, step: Step) -> tuple[int, float]:
    """The whole part, 0 at least, and what is left."""
    if not value <= _LARGEST_STEP:
        raise InputError(f"{value:g} requests within {step.seconds:g} s are no measurement")
    # Sums of counters are whole but for rounding.
    number = max(math.floor(value + 1e-6), 0)
    return number, value - number


def draw_lengths(
    counts: LengthCounts, number: int, rng: np.random.Generator, *, least: int
) -> IntArray:
    """Draw the tokens of `number` requests, in random order.

    Their sum is that of the counts where these are of the same number of requests. Without a histogram all
    are the mean, to one token.
    """
    lower = [low for (low, _), count in counts.buckets.items() for _ in range(round(count))]
    upper = [high for (_, high), count in counts.buckets.items() for _ in range(round(count))]
    if lower:
        drawn = _within(np.array(lower), np.array(upper), round(counts.tokens), rng, least)
    else:
        size = max(round(counts.count), 0)
        drawn = np.full(size, round(counts.tokens) // max(size, 1), dtype=np.int64)
        drawn[: round(counts.tokens) - int(drawn.sum())] += 1
    drawn = np.maximum(drawn, least)
    if len(drawn) == 0:
        return np.full(number, least, dtype=np.int64)
    if len(drawn) != number:
        return rng.choice(drawn, number, replace=len(drawn) < number)
    return rng.permutation(drawn)


def _within(
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
    total: int,
    rng: np.random.Generator,
    least: int,
) -> IntArray:
    """Whole numbers in (lower, upper] each, with that sum where the bounds allow it."""
    low = np.maximum(np.floor(lower) + 1.0, least)
    low[lower == 0] = least
    unbounded = np.isinf(upper)
    high = np.maximum(np.where(unbounded, 2.0 * low, np.floor(upper)), low)
    beyond = total - float(high.sum())
    if beyond > 0 and unbounded.any():
        high[unbounded] += math.ceil(beyond / int(unbounded.sum()))
    drawn = low + (high - low) * rng.random(len(low))
    missing = total - float(drawn.sum())
    room = high - drawn if missing > 0 else drawn - low
    if room.sum() > 0:
        drawn += math.copysign(1.0, missing) * room * min(abs(missing) / float(room.sum()), 1.0)
    whole: IntArray = np.floor(drawn).astype(np.int64)
    short = min(total - int(whole.sum()), len(whole))
    # Those that rounding took most from; none exceeds its bound by it.
    ranked = np.argsort(whole - drawn, kind="stable")
    ranked = ranked[whole[ranked] < high[ranked]]
    whole[ranked[: max(short, 0)]] += 1
    return whole
