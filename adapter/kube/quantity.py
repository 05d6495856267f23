"""Numbers as Kubernetes writes them: `resource.Quantity` with exact arithmetic, and whole numbers."""

from __future__ import annotations

import functools
import re
from decimal import ROUND_UP, Decimal, localcontext

from adapter.kube.paths import shortened

LENGTH = 256
"""Most characters of a quantity."""

# Possessive: what was read as a number is not tried again as a shorter one.
_FORM = re.compile(
    r"(?P<number>[+-]?+(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++))"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)
_NONE = "not a quantity: {}; write it like 3, 3500m or 2Gi"
_LARGEST = 100
"""Power of ten above which a number is no quantity of anything: written out, it could not be read again."""

_DIGITS = 19
"""Most digits of a whole number, as many as an int64 has."""

_KEPT = 1024
"""Quantities whose reading is kept: most are few numbers of replicas."""

_POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


@functools.lru_cache(maxsize=_KEPT)
def parse(text: str) -> Decimal:
    """The exact value of a quantity.

    Raises:
        ValueError: the text is not a quantity.

    """
    form = _FORM.fullmatch(text) if len(text) <= LENGTH else None
    if form is None:
        raise ValueError(_NONE.format(shortened(text)))
    suffix, exponent = form["suffix"] or "", form["exponent"]
    with localcontext(prec=200):
        number = Decimal(form["number"])
        if suffix in _BINARY:
            value = number * Decimal(2) ** _BINARY[suffix]
        else:
            value = number.scaleb(int(exponent) if exponent else _POWERS[suffix])
    if value.adjusted() > _LARGEST:
        raise ValueError(_NONE.format(shortened(text)))
    return value


def whole(text: str, *, least: int = 0, most: int) -> int:
    """A whole number in a text, of ASCII digits alone.

    Raises:
        ValueError: the text is no such number within the bounds.

    """
    # Longer texts are not read as a number at all: that takes more than linear time.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else -1
    if not least <= number <= most:
        raise ValueError(f"must be a whole number from {least} to {most}, not {shortened(text)}")
    return number


@functools.lru_cache(maxsize=_KEPT)
def canonical(text: str) -> str:
    """The canonical form of a quantity: no fraction, and the largest suffix that allows that.

    Binary suffixes and exponents are kept where there is something to scale; digits below a billionth are
    rounded away from zero.

    Raises:
        ValueError: the text is not a quantity.

    """
    value = parse(text)
    form = _FORM.fullmatch(text)
    with localcontext(prec=200):
        nano = int(value.scaleb(9).to_integral_value(rounding=ROUND_UP))
    if nano == 0:
        return "0"
    if form is not None and form["suffix"] in _BINARY and abs(nano) >= 1024 * 10**9:
        binary = _binary(nano)
        if binary:
            return binary
    power = -9
    while nano % 1000 == 0 and power < 18:
        nano, power = nano // 1000, power + 3
    if form is not None and form["exponent"] is not None:
        return f"{nano}e{power}" if power else str(nano)
    suffix = next(name for name, value in _POWERS.items() if value == power)
    return f"{nano}{suffix}"


def _binary(nano: int) -> str:
    whole, rest = divmod(nano, 10**9)
    if rest:
        return ""
    suffix = ""
    for name in _BINARY:
        if whole % 1024:
            break
        whole, suffix = whole // 1024, name
    return f"{whole}{suffix}"
