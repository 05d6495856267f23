"""Drift: that prediction and observation have parted, said once per episode.

An episode begins where the mean error of recent windows reaches a limit, and ends well below it, so that an
error at the limit makes one episode and not many; two begin no sooner than `GAP_SECONDS` after each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from analyzer import tuner
from analyzer.engine import learning

ITL_LIMIT = 0.25
TTFT_LIMIT = 0.5
"""Errors from which an episode begins; a mean TTFT swings more than a mean ITL."""

END_SHARE = 0.6
"""Share of the limits at which an episode ends."""

LEAST_WINDOWS = 3
"""Windows before an error counts; of step times that are being learned, twice those before they are used."""

GAP_SECONDS = 600.0
"""Least time between the beginnings of two episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The last episode of one variant on one accelerator.

    Attributes:
        active: True while the episode goes on.
        began_at: monotonic seconds; minus infinity where there was none.
        message: sentence with the numbers of its beginning, or of its end.

    """

    active: bool
    began_at: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Latencies of the last window in milliseconds; None where there were none."""

    itl_ms: float | None
    ttft_ms: float | None


def after(
    before: Drift | None,
    estimate: tuner.State | learning.State,
    seen: Observed,
    *,
    accelerator: str,
    now: float,
) -> Drift | None:
    """The episode after one more window; None while too little was observed to say."""
    if not _counts(estimate):
        return before
    errors = (
        ("ITL", estimate.itl_error, ITL_LIMIT, seen.itl_ms),
        ("TTFT", estimate.ttft_error, TTFT_LIMIT, seen.ttft_ms),
    )
    worst = max(abs(error) / limit for _, error, limit, _ in errors)
    numbers = ", ".join(
        _numbers(name, error, observed)
        for name, error, limit, observed in errors
        if observed and abs(error) >= END_SHARE * limit
    )
    if before is not None and before.active:
        if worst > END_SHARE:
            return before
        agree = ", ".join(
            _numbers(name, error, observed) for name, error, _, observed in errors if observed
        )
        return Drift(
            active=False,
            began_at=before.began_at,
            message=f"predictions for {accelerator} are right again: {agree}",
        )
    soon = before is not None and now - before.began_at < GAP_SECONDS
    if worst >= 1.0 and numbers and not soon:
        return Drift(
            active=True,
            began_at=now,
            message=f"{numbers}: the profile of {accelerator} is not that of these servers, or they changed",
        )
    if before is None and worst <= END_SHARE:
        return Drift(active=False, began_at=float("-inf"), message="predictions are right")
    return before


def _counts(estimate: tuner.State | learning.State) -> bool:
    """Whether the errors are those of a prediction that somebody could have relied on."""
    windows = estimate.accepted + estimate.outliers
    if isinstance(estimate, learning.State) and estimate.learned and not estimate.error:
        return windows >= 2 * learning.WARM_UP
    return windows >= LEAST_WINDOWS


def _numbers(name: str, error: float, observed: float | None) -> str:
    """Observed and predicted latency with the mean error of recent windows."""
    shown = observed or 0.0
    return (
        f"{name} observed {shown:.1f} ms, predicted {shown / (1.0 + error):.1f} ms ({error:+.0%})"
    )
