"""Durations as Go and Kubernetes write them: `60s`, `1m30s`, `500ms`; plain numbers are seconds."""

from __future__ import annotations

import re

from adapter.kube.paths import shortened

LENGTH = 64
"""Most characters of a duration."""

LONGEST_SECONDS = 10 * 365 * 86400.0
"""Longest duration: ten years."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# Possessive: what was read as a number is not tried again as a shorter one.
_NUMBER = r"([0-9]++(?:\.[0-9]*+)?|\.[0-9]++)"
_PART = re.compile(_NUMBER + r"(h|ms|m|s|us|µs|ns)")
_PLAIN = re.compile(_NUMBER)


def seconds(text: str) -> float:
    """Parse a duration; seconds, greater than 0.

    Raises:
        ValueError: the text is not a duration, not greater than 0, or longer than ten years.

    """
    text = text.strip()
    total = _total(text) if len(text) <= LENGTH else None
    if total is None:
        raise ValueError(f"must be a duration such as 60s, 1m30s or 24h, not {shortened(text)}")
    if total <= 0:
        raise ValueError(f"must be longer than 0, not {shortened(text)}")
    if total > LONGEST_SECONDS:
        raise ValueError(f"must be at most ten years, not {shortened(text)}")
    return total


def _total(text: str) -> float | None:
    """Seconds of a duration; None where the text is none."""
    if _PLAIN.fullmatch(text):
        return float(text)
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return total if text else None
