"""Durations as Go and Kubernetes write them: `60s`, `1m30s`, `500ms`; plain numbers are seconds."""

from __future__ import annotations

import re

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_PLAIN = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def seconds(text: str) -> float:
    """Parse a duration; seconds, greater than 0.

    Raises:
        ValueError: the text is not a duration, or not greater than 0.

    """
    text = text.strip()
    if _PLAIN.fullmatch(text):
        total = float(text)
    elif text and _PART.sub("", text) == "":
        total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        raise ValueError(f"must be a duration such as 60s or 1m30s, not {text!r}")
    if total <= 0:
        raise ValueError(f"must be longer than 0, not {text!r}")
    return total
