"""Lengths of the requests that are there now, and whether they have left those of a profile."""

from __future__ import annotations

import math
from dataclasses import replace

from adapter.collector.traffic import Traffic
from adapter.planning import fleet, step_model
from analyzer.engine import conversion
from analyzer.step_times import Lengths

DEFAULT_INPUT_CV = 1.0
DEFAULT_OUTPUT_CV = 0.8
"""Variation of lengths where it was not measured, about that of public traces of chats."""

NOISE_ERRORS, CERTAIN_ERRORS = 2.0, 3.0
"""Standard errors of a mean within which it is noise, and beyond which a rise counts at full size."""

TOLD_SHARE = 0.05
"""Share of a length up to which the difference between observed and used is not told."""


def of_traffic(traffic: Traffic) -> Lengths:
    """Lengths of the requests, by the defaults where their variation was not measured."""
    cached = min(traffic.cached_tokens or 0.0, traffic.input_tokens or 0.0)
    return Lengths(
        input_tokens=(traffic.input_tokens or 0.0) - cached,
        output_tokens=traffic.output_tokens or 1.0,
        input_cv=DEFAULT_INPUT_CV if traffic.input_cv is None else traffic.input_cv,
        output_cv=DEFAULT_OUTPUT_CV if traffic.output_cv is None else traffic.output_cv,
        cached_tokens=cached,
        short_answers=traffic.short_answers,
    )


def smoothed(traffic: Traffic) -> Lengths:
    """Lengths to size for: those of the long window, moved by the significant part of what a short one shows.

    As with rates, a certain rise counts at full size, and a fall only as far as it is more than chance: few
    requests say little of the mean, and replicas given back for some short ones take a start-up to return.
    """
    now, steady = of_traffic(traffic), traffic.steady
    if steady is None or steady.ended <= 0:
        return now
    before = traffic.input_tokens or 0.0
    few = 1.0 / math.sqrt(steady.ended)
    prompt = _smoothed(before, steady.input_tokens, now.input_cv * few)
    answer = _smoothed(now.output_tokens, steady.output_tokens, now.output_cv * few)
    cached = now.cached_tokens * (prompt / before if before > 0 else 1.0)
    return replace(now, input_tokens=prompt - cached, output_tokens=answer, cached_tokens=cached)


def smoothing_note(traffic: Traffic) -> tuple[str, ...]:
    """Clause that the lengths to size for are not those observed; none where they are nearly."""
    if traffic.output_tokens is None:
        return ()
    seen, used = of_traffic(traffic), smoothed(traffic)
    pairs = ((seen.input_tokens, used.input_tokens), (seen.output_tokens, used.output_tokens))
    if all(abs(used - seen) <= TOLD_SHARE * seen for seen, used in pairs):
        return ()
    return (f"{_shown(seen)} tokens observed, {_shown(used)} used: the rest may be noise",)


def _smoothed(short: float, long: float, variation: float) -> float:
    """A mean length: `short` has that coefficient of variation, `long` is of more requests."""
    error = NOISE_ERRORS * variation * long
    if short <= long:
        return min(long, short + error)
    certain = short > long + CERTAIN_ERRORS / NOISE_ERRORS * error
    return short if certain else max(long, short - error)


def lengths_changed(profile: fleet.Profile, first: Lengths, now: Lengths) -> str:
    """Clause that traffic has left the lengths of a profile that does not say its own; empty otherwise.

    What it was measured at is then not known: it is compared with what it was first used at, and with
    `atTokens` where that alone is given.
    """
    if step_model.step_times(profile) is not None:
        return ""
    at = replace(first, output_tokens=profile.at_tokens or first.output_tokens)
    if not conversion.lengths_left(at, now, step_model.LENGTHS_FACTOR):
        return ""
    return (
        f"profile of {profile.accelerator} does not say its lengths (atInputTokens, atTokens) and was first"
        f" used at {_shown(at)} tokens, traffic has {_shown(now)}: its times may not hold there;"
        " give the lengths, or step times"
    )


def _shown(lengths: Lengths) -> str:
    return f"{lengths.input_tokens + lengths.cached_tokens:.0f}/{lengths.output_tokens:.0f}"
