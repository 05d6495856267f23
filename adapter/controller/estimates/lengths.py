"""Lengths of the requests that are there now, and whether they have left those of a profile."""

from __future__ import annotations

from dataclasses import replace

from adapter.collector.traffic import Traffic
from adapter.planning import fleet, step_model
from analyzer.engine import conversion
from analyzer.step_times import Lengths

DEFAULT_INPUT_CV = 1.0
DEFAULT_OUTPUT_CV = 0.8
"""Variation of lengths where it was not measured, about that of public traces of chats."""


def of_traffic(traffic: Traffic) -> Lengths:
    """Lengths of the requests, by the defaults where their variation was not measured."""
    cached = min(traffic.cached_tokens or 0.0, traffic.input_tokens or 0.0)
    return Lengths(
        input_tokens=(traffic.input_tokens or 0.0) - cached,
        output_tokens=traffic.output_tokens or 1.0,
        input_cv=DEFAULT_INPUT_CV if traffic.input_cv is None else traffic.input_cv,
        output_cv=DEFAULT_OUTPUT_CV if traffic.output_cv is None else traffic.output_cv,
        cached_tokens=cached,
    )


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
