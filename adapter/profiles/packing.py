"""Numbers of the catalog as two characters each, so that the catalog stays a few kilobytes.

A number > 0 is 10 ** (code / 810 - 7), its code two digits to the base 90: from 1e-7 to 1e3 within 0.15 %,
which is more than an estimate knows. Zero is one character of its own, and so is an entry that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

ZERO, ABSENT = "~", "-"
_DIGITS = "".join(
    letter for letter in map(chr, range(33, 127)) if letter not in {'"', "\\", ZERO, ABSENT}
)
_BASE = len(_DIGITS)
_PER_DECADE, _LEAST_DECADE = _BASE * _BASE // 10, -7


def packed(values: Sequence[float]) -> str:
    """Characters of numbers >= 0.

    Raises:
        ValueError: one is out of range.

    """
    return "".join(_pair(value) for value in values)


def unpacked(text: str, width: int) -> Iterator[list[float] | None]:
    """Entries of `width` numbers each; None for one that is not there."""
    entry: list[float] = []
    letters = iter(text)
    for letter in letters:
        if letter == ABSENT and not entry:
            yield None
            continue
        if letter == ZERO:
            entry.append(0.0)
        else:
            code = _DIGITS.index(letter) * _BASE + _DIGITS.index(next(letters))
            entry.append(float(f"{10 ** (code / _PER_DECADE + _LEAST_DECADE):.4g}"))
        if len(entry) == width:
            yield entry
            entry = []


def _pair(value: float) -> str:
    if value == 0.0:
        return ZERO
    code = round((math.log10(value) - _LEAST_DECADE) * _PER_DECADE)
    if not 0 <= code < _BASE * _BASE:
        raise ValueError(f"{value:g}: must be from 1e-7 to 1e3")
    return _DIGITS[code // _BASE] + _DIGITS[code % _BASE]
