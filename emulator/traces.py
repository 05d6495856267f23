"""Request traces: when requests arrive, and how many tokens each has.

All generators are one mechanism, time rescaling (Daley and Vere-Jones, An Introduction to the Theory of
Point Processes, theorem 7.4.I): a stationary stream of points at one per unit (even, or with gamma
distributed gaps; Poisson at a coefficient of variation of 1) is moved to where the integral of a rate,
linear between its knots, reaches them. A spec is a mapping or its JSON text:

    {"kind": "step", "levels": [[600, 60], [600, 180]], "arrivals": "poisson", "seed": 1,
     "tokens": {"input": {"mean": 128, "cv": 0.8, "max": 4096}, "output": {"mean": 178}}}

Rates are requests per minute. Equal specs and seeds give equal traces; arrivals, noise and tokens draw from
streams of their own, so that a change of one leaves the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.trace_lines import Lines, not_json

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
MAX_REQUESTS, MAX_KNOTS, MAX_TOKENS, MAX_CV = 20_000_000, 1_000_000, 2**31 - 1, 20.0
"""Limits above which a spec is rejected as a mistake; a cv of 80 was meant as 80 %."""


class TraceError(ValueError):
    """A trace or its spec is wrong; the message names the file or field, and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival; the arrays are read-only.

    Attributes:
        arrival_seconds: Arrivals since the beginning of the trace, ascending, at most `duration_seconds`.
        input_tokens: Prompt tokens of each request, >= 0.
        output_tokens: Generated tokens of each request, >= 1.
        duration_seconds: Duration of the trace.
        name: Name to show.
        skipped: Rows of the file that are no requests, such as failures.
        lines: Lines of the requests in their file, if it has such; `left_out` are wrong ones, with reasons.

    """

    arrival_seconds: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    duration_seconds: float
    name: str = "trace"
    skipped: int = 0
    lines: Lines | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        arrivals, inputs, outputs = self.arrival_seconds, self.input_tokens, self.output_tokens
        if not len(arrivals) == len(inputs) == len(outputs):
            raise TraceError(f"{self.name}: arrivals, input and output tokens differ in number")
        if not (math.isfinite(self.duration_seconds) and self.duration_seconds >= 0):
            raise TraceError(f"{self.name}: duration_seconds: must be >= 0 and finite")
        if len(arrivals):
            # Written so that NaN fails.
            if not ((np.diff(arrivals) >= 0).all() and arrivals[0] >= 0):
                raise TraceError(f"{self.name}: arrival_seconds: must ascend from 0; sort them")
            if not arrivals[-1] <= self.duration_seconds:
                raise TraceError(f"{self.name}: arrival_seconds: must end by duration_seconds")
            if inputs.min() < 0 or outputs.min() < 1:
                raise TraceError(f"{self.name}: tokens: inputs must be >= 0 and outputs >= 1")
        for array in (arrivals, inputs, outputs):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    def between(self, start_seconds: float, end_seconds: float) -> Trace:
        """The requests from start to before end, as a trace that begins at 0."""
        if not 0 <= start_seconds < end_seconds:
            raise TraceError(f"{self.name}: the part must be 0 <= start < end")
        end = min(end_seconds, self.duration_seconds)
        first, last = np.searchsorted(self.arrival_seconds, (start_seconds, end_seconds))
        part = slice(int(first), int(last))
        return Trace(
            arrival_seconds=self.arrival_seconds[part] - start_seconds,
            input_tokens=self.input_tokens[part],
            output_tokens=self.output_tokens[part],
            duration_seconds=max(end - start_seconds, 0.0),
            name=self.name,
        )

    def scaled(self, factor: float) -> Trace:
        """The same requests at `factor` times the rate, in a time divided by `factor`."""
        if not (math.isfinite(factor) and factor > 0):
            raise TraceError(f"{self.name}: factor: must be > 0 and finite, not {factor}")
        duration = self.duration_seconds / factor
        return replace(
            self, arrival_seconds=self.arrival_seconds / factor, duration_seconds=duration
        )

    def rate_rpm(self, bin_seconds: float = 60.0) -> FloatArray:
        """Requests per minute in each bin; the last bin may be shorter."""
        if not (math.isfinite(bin_seconds) and bin_seconds > 0):
            raise TraceError(f"{self.name}: bin_seconds: must be > 0, not {bin_seconds}")
        bins = max(math.ceil(self.duration_seconds / bin_seconds), 1)
        indices = np.minimum((self.arrival_seconds / bin_seconds).astype(np.int64), bins - 1)
        widths = np.full(bins, bin_seconds)
        widths[-1] = self.duration_seconds - (bins - 1) * bin_seconds or bin_seconds
        return np.asarray(np.bincount(indices, minlength=bins) * 60.0 / widths, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Rate:
    """Requests per minute, linear between knots; two knots at one time are a jump."""

    seconds: FloatArray
    rpm: FloatArray

    @property
    def duration_seconds(self) -> float:
        """Time of the last knot."""
        return float(self.seconds[-1])

    def expected(self) -> FloatArray:
        """Expected requests up to each knot: the integral of the rate."""
        areas = np.diff(self.seconds) * (self.rpm[1:] + self.rpm[:-1]) / 120.0
        return np.concatenate(([0.0], np.cumsum(areas)))

    def when(self, points: FloatArray) -> FloatArray:
        """Times in seconds at which the integral reaches these points > 0."""
        reached = self.expected()
        left = np.clip(np.searchsorted(reached, points) - 1, 0, len(reached) - 2)
        rest = points - reached[left]
        per_second = self.rpm / 60.0
        widths = np.diff(self.seconds)
        slopes = np.diff(per_second) / np.where(widths > 0, widths, 1.0)
        start, slope = per_second[left], slopes[left]
        # The root of rest = start * t + slope * t^2 / 2, in the form that does not cancel.
        root = np.sqrt(np.maximum(start**2 + 2.0 * slope * rest, 0.0))
        times = self.seconds[left] + np.minimum(2.0 * rest / (start + root), widths[left])
        return np.maximum.accumulate(times)  # rounding could swap close neighbours


def steps(levels: Sequence[tuple[float, float]]) -> Rate:
    """Rate with constant levels of (seconds, rpm)."""
    ends = np.cumsum([seconds for seconds, _ in levels])
    knots = np.concatenate(([0.0], np.repeat(ends, 2)[:-1]))
    return Rate(knots, np.repeat(np.array([rpm for _, rpm in levels], dtype=np.float64), 2))


def arrivals(rate: Rate, *, cv: float, rng: np.random.Generator) -> FloatArray:
    """Arrival times in seconds; `cv` is the gaps' coefficient of variation at a constant rate, 0 is even."""
    total = float(rate.expected()[-1])
    if total > MAX_REQUESTS:
        raise TraceError(f"rate: asks for {total:.0f} requests; at most {MAX_REQUESTS} are made")
    if cv == 0:
        return rate.when(np.arange(math.ceil(total - 0.5), dtype=np.float64) + 0.5)
    return rate.when(_renewals(total, cv, rng))


def _renewals(total: float, cv: float, rng: np.random.Generator) -> FloatArray:
    """Points before `total`, one per unit, with gamma distributed gaps."""
    shape = 1.0 / cv**2
    # The gap in which a stationary stream begins is longer than average, and partly over.
    chunks = [np.array([rng.random() * rng.standard_gamma(shape + 1.0) / shape])]
    reached = float(chunks[0][0])
    while reached < total:
        gaps = rng.standard_gamma(shape, size=int((total - reached) * 1.1) + 64) / shape
        chunks.append(reached + np.cumsum(gaps))
        reached = float(chunks[-1][-1])
    points = np.concatenate(chunks)
    return points[(points < total) & (points > 0)]


def generate(spec: Mapping[str, Any] | str) -> Trace:
    """Generate the trace that a spec describes; see the module's docstring and `KINDS`.

    Raises:
        TraceError: The spec is wrong; the message names the field and the fix.

    """
    fields = _Fields(_parsed(spec))
    seed = int(fields.number("seed", default=0, whole=True))
    kind = fields.choice("kind", tuple(KINDS))
    rate = KINDS[kind](fields, np.random.default_rng([seed, 0]))
    cv = _variation(fields, kind)
    name = str(fields.get("name", kind, "a text"))
    tokens = fields.section("tokens", '{"input": {"mean": 128}, "output": {"mean": 178}}')
    inputs, outputs = _Lengths.of(tokens, "input", 0), _Lengths.of(tokens, "output", 1)
    tokens.close()
    fields.close()
    times = arrivals(rate, cv=cv, rng=np.random.default_rng([seed, 1]))
    return Trace(
        arrival_seconds=times,
        input_tokens=inputs.draw(len(times), np.random.default_rng([seed, 2])),
        output_tokens=outputs.draw(len(times), np.random.default_rng([seed, 3])),
        duration_seconds=rate.duration_seconds,
        name=name,
    )


def _parsed(spec: Mapping[str, Any] | str) -> Any:
    try:
        return json.loads(spec) if isinstance(spec, str) else spec
    except (ValueError, RecursionError) as error:
        raise TraceError(f'spec: {not_json(error)}; it is {{"kind": "poisson", ...}}') from None


def _variation(fields: _Fields, kind: str) -> float:
    """Coefficient of variation of the gaps."""
    gaps = {"poisson": "poisson", "mmpp": "poisson", "gamma": "gamma"}.get(kind)
    if gaps is None:
        usual = "even" if kind == "constant" else "poisson"
        gaps = fields.choice("arrivals", ("even", "poisson", "gamma"), default=usual)
    if gaps == "gamma":
        return fields.number("cv", above=0.0, most=MAX_CV)
    return float(gaps == "poisson")


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Tokens per request: constant at cv 0, otherwise lognormal, rounded, >= 1, cut at `most`."""

    mean: float
    cv: float
    most: float

    @classmethod
    def of(cls, tokens: _Fields, side: str, least: int) -> _Lengths:
        fields = tokens.section(side, '{"mean": 128, "cv": 0.8, "max": 4096}')
        mean = fields.number("mean", least=least)
        cv = fields.number("cv", default=0.0, most=MAX_CV)
        most = fields.number("max", default=MAX_TOKENS, least=mean, most=MAX_TOKENS, whole=True)
        fields.close()
        if cv and mean < 1:
            raise TraceError(f"{fields.where}mean: must be >= 1 where cv is not 0, not {mean:g}")
        return cls(mean, cv, most)

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        if self.cv == 0:
            return np.full(count, round(self.mean), dtype=np.int64)
        variance = math.log1p(self.cv**2)
        drawn = rng.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), size=count)
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


def _constant(fields: _Fields, _: np.random.Generator) -> Rate:
    """duration_seconds, rate_rpm."""
    return steps([(_duration(fields), fields.number("rate_rpm"))])


def _step(fields: _Fields, _: np.random.Generator) -> Rate:
    """levels: [[seconds, rpm], ...]."""
    return steps(fields.pairs("levels", "a list of [seconds > 0, requests per minute]"))


def _ramp(fields: _Fields, _: np.random.Generator) -> Rate:
    """duration_seconds, from_rpm, to_rpm."""
    ends = [fields.number("from_rpm"), fields.number("to_rpm")]
    return Rate(np.array([0.0, _duration(fields)]), np.array(ends))


def _diurnal(fields: _Fields, rng: np.random.Generator) -> Rate:
    """duration_seconds, mean_rpm; amplitude (0.5), period_seconds (a day); noise (0.1), noise_seconds.

    A sine that begins at its lowest, times a lognormal factor of mean 1 and coefficient of variation
    `noise` that is drawn anew every `noise_seconds`.
    """
    duration, mean = _duration(fields), fields.number("mean_rpm")
    amplitude = fields.number("amplitude", default=0.5, most=1.0)
    period = fields.number("period_seconds", default=86400.0, above=0.0)
    noise = fields.number("noise", default=0.1)
    width = fields.number("noise_seconds", default=period / 288, least=duration / MAX_KNOTS)
    seconds = np.linspace(0.0, duration, math.ceil(duration / width) + 1)
    variance = math.log1p(noise**2)
    factors = rng.lognormal(-variance / 2, math.sqrt(variance), size=len(seconds))
    return Rate(seconds, mean * (1 - amplitude * np.cos(2 * np.pi * seconds / period)) * factors)


def _flash_crowd(fields: _Fields, _: np.random.Generator) -> Rate:
    """duration_seconds, base_rpm, peak_rpm, start_seconds, hold_seconds; rise_seconds, fall_seconds (0)."""
    duration, base, peak = _duration(fields), fields.number("base_rpm"), fields.number("peak_rpm")
    rise, fall = (fields.number(name, default=0.0) for name in ("rise_seconds", "fall_seconds"))
    widths = [fields.number("start_seconds"), rise, fields.number("hold_seconds"), fall]
    if sum(widths) > duration:
        raise TraceError(f"duration_seconds: must be >= {sum(widths):g}, the end of the fall")
    seconds = np.concatenate(([0.0], np.cumsum(widths), [duration]))
    return Rate(seconds, np.array([base, base, peak, peak, base, base]))


def _mmpp(fields: _Fields, rng: np.random.Generator) -> Rate:
    """duration_seconds, states: [[mean seconds, rpm], [mean seconds, rpm]], with exponential stays."""
    expected = "two of [mean seconds > 0, requests per minute]"
    duration, states = _duration(fields), fields.pairs("states", expected)
    if len(states) != 2:
        raise fields.wrong("states", expected)
    means = [mean for mean, _ in states]
    if duration / min(means) > MAX_KNOTS:
        raise TraceError(f"states: mean seconds must be >= {duration / MAX_KNOTS:g}")
    state = int(rng.random() * sum(means) >= means[0])
    levels, remaining = [], duration
    while remaining > 0:
        stay = min(rng.exponential(means[state]), remaining)
        levels.append((stay, states[state][1]))
        remaining -= stay
        state = 1 - state
    rate = steps(levels)
    rate.seconds[-1] = duration  # the sum of the stays differs by rounding
    return rate


def _duration(fields: _Fields) -> float:
    return fields.number("duration_seconds", above=0.0)


KINDS: Mapping[str, Callable[[_Fields, np.random.Generator], Rate]] = {
    "constant": _constant,
    "poisson": _constant,
    "gamma": _constant,
    "step": _step,
    "ramp": _ramp,
    "diurnal": _diurnal,
    "flash-crowd": _flash_crowd,
    "mmpp": _mmpp,
}
"""Rate functions by the spec's `kind`; their docstrings list its fields. Every spec also has seed, name and
tokens, `cv` for gamma, and `arrivals` (even, poisson, or gamma with `cv`) where the kind does not imply it.
"""


class _Fields:
    """Reads a mapping field by field; `close` rejects unread fields."""

    def __init__(self, given: Any, where: str = "") -> None:
        if not isinstance(given, Mapping):
            raise TraceError(f"{where.rstrip('.') or 'spec'}: must be an object, not {given!r}")
        self._given = given
        self._read: list[str] = []
        self.where = where

    def get(self, name: str, default: Any, expected: str) -> Any:
        self._read.append(name)
        value = self._given.get(name, default)
        if value is None:
            raise TraceError(f"{self.where}{name}: missing; give {expected}")
        return value

    def wrong(self, name: str, expected: str) -> TraceError:
        return TraceError(f"{self.where}{name}: must be {expected}, not {self._given.get(name)!r}")

    def number(
        self, name: str, *, default: float | None = None, least: float = 0.0, above: float = -1.0,
        most: float = math.inf, whole: bool = False,
    ) -> float:  # fmt: skip
        """A number >= `least`, > `above` and <= `most`."""
        bounds = f"> {above:g}" if above >= least else f">= {least:g}"
        bounds += f" and <= {most:g}" if most < math.inf else ""
        expected = f"a {'whole ' if whole else ''}number {bounds}"
        value = self.get(name, default, expected)
        good = _finite(value) and least <= value <= most and value > above
        if not good or (whole and value != int(value)):
            raise self.wrong(name, expected)
        return float(value)

    def choice(self, name: str, options: Sequence[str], *, default: str | None = None) -> str:
        expected = f"one of {', '.join(options)}"
        value = self.get(name, default, expected)
        if value not in options:
            raise self.wrong(name, expected)
        return str(value)

    def pairs(self, name: str, expected: str) -> list[tuple[float, float]]:
        """A list of [number > 0, number >= 0]."""
        rows = self.get(name, None, expected)
        if not isinstance(rows, list | tuple) or not rows:
            raise self.wrong(name, expected)
        for index, row in enumerate(rows):
            good = isinstance(row, list | tuple) and len(row) == 2 and all(map(_finite, row))
            if not (good and row[0] > 0 and row[1] >= 0):
                raise TraceError(f"{self.where}{name}[{index}]: must be {expected}, not {row!r}")
        return [(float(seconds), float(rpm)) for seconds, rpm in rows]

    def section(self, name: str, example: str) -> _Fields:
        return _Fields(self.get(name, None, f"an object like {example}"), f"{self.where}{name}.")

    def close(self) -> None:
        """Raise TraceError for a field that was not read."""
        for name in self._given:
            if name not in self._read:
                known = ", ".join(self._read)
                raise TraceError(f"{self.where}{name}: unknown field; known are {known}")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
