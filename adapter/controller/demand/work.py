"""Work offered to a variant: its arrival rate times the size of its requests.

The rate alone says little where the lengths of requests change: as many that are half as long again need
half as many replicas more. The size of a request is the time that it adds to the steps of its engine.

Units: seconds, tokens, requests per second of the size that the first ones had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapter.planning import fleet
from analyzer import forecast
from analyzer.step_times import Lengths, StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What was learned of one variant's work.

    Attributes:
        profile: Profile that sizes are computed by; another one starts over.
        size_ms: Size of the first requests, the unit.
        trend: Trend of rate times size.
        variation: Square of the coefficient of variation of single requests' sizes.

    """

    profile: fleet.Profile
    size_ms: float
    trend: forecast.State
    variation: float

    def usual_change(self, seconds: float) -> float:
        """Standard deviation of the change over so many seconds, beyond chance, as a share of the level."""
        return self._share(forecast.usual_change(self.trend, seconds, chance=self._chance))

    def room(self, seconds: float, *, errors: float) -> float:
        """What it may rise by within so many seconds (`forecast.room`), as a share of the level."""
        return self._share(forecast.room(self.trend, seconds, errors=errors, chance=self._chance))

    @property
    def _chance(self) -> float:
        # The mean size of the last minute's requests is known as well as their number is large.
        return self.variation * self.trend.level / forecast.LEVEL_SECONDS

    def _share(self, change: float) -> float:
        return change / self.trend.level if self.trend.level > 0 else 0.0


def record(
    before: Work | None, profile: fleet.Profile, lengths: Lengths, rate_rps: float, *, at: float
) -> Work | None:
    """The work with one more rate of requests of these lengths; None where a request takes no time.

    Args:
        before: Work so far; None before the first rate.
        profile: Profile of the accelerator that the variant runs on, as it was written.
        lengths: Lengths of the last window.
        rate_rps: Requests per second since the last rate.
        at: Monotonic seconds; what is no newer is ignored.

    """
    prompts, answers = _parts(profile, lengths)
    size = prompts + answers
    if not (math.isfinite(size) and size > 0):
        return None
    if before is not None and before.profile != profile:
        before = None
    if before is not None and at <= before.trend.at:
        return before
    unit = size if before is None else before.size_ms
    spread = (prompts * lengths.input_cv) ** 2 + (answers * lengths.output_cv) ** 2
    trend = forecast.update(None if before is None else before.trend, rate_rps * size / unit, at=at)
    return Work(profile=profile, size_ms=unit, trend=trend, variation=spread / (size * size))


def _parts(profile: fleet.Profile, lengths: Lengths) -> tuple[float, float]:
    """Milliseconds that the prompt and the answer of a mean request add to the steps of an engine."""
    latency = profile.latency
    if not isinstance(latency, StepTimes):
        return (
            latency.delta_ms * lengths.input_tokens,
            latency.beta_ms * lengths.output_tokens,
        )
    held = lengths.input_tokens + lengths.cached_tokens + 0.5 * lengths.output_tokens
    each = latency.per_request_ms + latency.per_context_token_ms * held
    return latency.per_prefill_token_ms * lengths.input_tokens, each * lengths.output_tokens
