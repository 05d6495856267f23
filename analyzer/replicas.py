"""What one LLM server replica is, alone (`Replica`) and as a batch of arrays (`Replicas`); both checked.

Units: times in milliseconds, rates in requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.errors import InvalidParameterError
from analyzer.latency import LatencyParameters

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MAX_QUEUE_TO_BATCH = 10
"""Default bound of the queue, in multiples of the max batch."""

MAX_BATCH_LIMIT = 2**20
"""Largest max batch that is analyzed: work and memory grow with it."""

_LARGEST_QUEUE = 2.0**53
_TIME_RANGE_MS = (1e-200, 1e200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica(LatencyParameters):
    """One replica with the requests it gets; checked when made.

    Attributes:
        input_tokens: mean prompt tokens per request, >= 0.
        output_tokens: mean generated tokens per request, >= 1.
        max_batch: largest number of requests in service, >= 1.
        max_queue: largest number of requests that wait, >= 0.

    Raises:
        InvalidParameterError: a parameter is out of its range, or a request would take no time.

    """

    input_tokens: float
    output_tokens: float
    max_batch: int
    max_queue: int

    def __post_init__(self) -> None:
        """Refuse what the formulas have no meaning for."""
        columns = {name: _column(name, getattr(self, name)) for name in PARAMETERS}
        for error in problems(columns).values():
            raise InvalidParameterError(error.parameter, error.problem)

    def decode_ms(self, batch: float) -> float:
        """Inter-token latency (ITL) in a batch of that size."""
        return self.alpha_ms + self.beta_ms * batch

    def prefill_ms(self, batch: float) -> float:
        """Prefill time in a batch of that size; 0 without input tokens."""
        if self.input_tokens == 0:
            return 0.0
        return self.gamma_ms + self.delta_ms * self.input_tokens * batch

    def request_ms(self, batch: float) -> float:
        """Time of one whole request in a batch of that size."""
        decodes = self.output_tokens - 1
        if self.input_tokens == 0 and self.output_tokens == 1:
            decodes = 1  # one token without a prefill is one decode
        return self.prefill_ms(batch) + decodes * self.decode_ms(batch)

    @property
    def max_rate_rps(self) -> float:
        """mu(max_batch): what the replica finishes when it is never empty."""
        return 1000.0 * self.max_batch / self.request_ms(self.max_batch)


PARAMETERS = tuple(item.name for item in fields(Replica))


class Replicas:
    """M replicas, each parameter an array of shape (M,); see `Replica` for meanings and units.

    Scalars stand for the same value in all rows.

    Attributes:
        prefill_base_ms: shape (M,), prefill time before what the batch adds; 0 without input tokens.
        prefill_slope_ms: shape (M,), prefill time that each request in the batch adds.
        base_ms: shape (M,), time of a whole request before what the batch adds.
        slope_ms: shape (M,), time of a whole request that each request in the batch adds.
        max_rate_rps: shape (M,), mu(max_batch).

    Raises:
        InvalidParameterError: names the parameter and the row.

    """

    def __init__(
        self,
        *,
        alpha_ms: ArrayLike,
        beta_ms: ArrayLike,
        gamma_ms: ArrayLike,
        delta_ms: ArrayLike,
        input_tokens: ArrayLike,
        output_tokens: ArrayLike,
        max_batch: ArrayLike,
        max_queue: ArrayLike,
    ) -> None:
        given = {
            "alpha_ms": alpha_ms,
            "beta_ms": beta_ms,
            "gamma_ms": gamma_ms,
            "delta_ms": delta_ms,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "max_batch": max_batch,
            "max_queue": max_queue,
        }
        columns = same_length({name: _column(name, value) for name, value in given.items()})
        for error in problems(columns).values():
            raise error
        self._fill(columns)

    @classmethod
    def of(cls, replicas: Sequence[Replica]) -> Replicas:
        """A batch of replicas that were checked when they were made."""
        self = cls.__new__(cls)
        self._fill(
            {
                name: np.array([getattr(replica, name) for replica in replicas], dtype=np.float64)
                for name in PARAMETERS
            }
        )
        return self

    def _fill(self, columns: Mapping[str, FloatArray]) -> None:
        self.alpha_ms = columns["alpha_ms"]
        self.beta_ms = columns["beta_ms"]
        self.gamma_ms = columns["gamma_ms"]
        self.delta_ms = columns["delta_ms"]
        self.input_tokens = columns["input_tokens"]
        self.output_tokens = columns["output_tokens"]
        self.max_batch = columns["max_batch"]
        self.max_queue = columns["max_queue"]
        self.prefill_base_ms, self.prefill_slope_ms, self.base_ms, self.slope_ms = _lines(columns)
        self.max_rate_rps = (
            1000.0 * self.max_batch / (self.base_ms + self.slope_ms * self.max_batch)
        )

    def __len__(self) -> int:
        """M."""
        return self.alpha_ms.size

    def take(self, rows: NDArray[np.intp] | BoolArray) -> Replicas:
        """The replicas of those rows."""
        part = Replicas.__new__(Replicas)
        for name, values in vars(self).items():
            setattr(part, name, values[rows])
        return part

    def decode_ms(self, batch: FloatArray) -> FloatArray:
        """Inter-token latency (ITL) in batches of those sizes, shape (M,)."""
        return self.alpha_ms + self.beta_ms * batch

    def prefill_ms(self, batch: FloatArray) -> FloatArray:
        """Prefill time in batches of those sizes, shape (M,)."""
        return self.prefill_base_ms + self.prefill_slope_ms * batch

    def request_ms(self, batch: FloatArray) -> FloatArray:
        """Time of one whole request in batches of those sizes, shape (M,)."""
        return self.base_ms + self.slope_ms * batch


def problems(columns: Mapping[str, FloatArray]) -> dict[int, InvalidParameterError]:
    """First problem of each row that has one, in the order of the rows.

    Args:
        columns: arrays of one length under the names of `PARAMETERS`.

    """
    problem_of: dict[int, InvalidParameterError] = {}

    def note(parameter: str, bad: BoolArray, problem: str) -> None:
        for row in np.flatnonzero(bad):
            text = problem.format(columns[parameter.split(",", maxsplit=1)[0]][row])
            problem_of.setdefault(int(row), InvalidParameterError(parameter, text, index=int(row)))

    for name in PARAMETERS:
        values = columns[name]
        if name == "output_tokens":
            note(name, ~(np.isfinite(values) & (values >= 1)), "must be a number >= 1, not {:g}")
        elif name == "max_batch":
            fits = (values >= 1) & (values <= MAX_BATCH_LIMIT) & (values == np.floor(values))
            note(name, ~fits, f"must be a whole number from 1 to {MAX_BATCH_LIMIT}, not {{:g}}")
        elif name == "max_queue":
            fits = (values >= 0) & (values <= _LARGEST_QUEUE) & (values == np.floor(values))
            note(name, ~fits, "must be a whole number >= 0, not {:g}")
        else:
            note(name, ~(np.isfinite(values) & (values >= 0)), "must be a number >= 0, not {:g}")
    with np.errstate(all="ignore"):
        _, _, base, slope = _lines(columns)
        longest = base + slope * columns["max_batch"]
    times = "alpha_ms,beta_ms,gamma_ms,delta_ms"
    note(times, ~(base + slope >= _TIME_RANGE_MS[0]), "a request would take no time")
    note(times, ~(longest <= _TIME_RANGE_MS[1]), "a request would take forever")
    return dict(sorted(problem_of.items()))


def checked(
    name: str,
    value: ArrayLike,
    rows: int,
    *,
    least: float = -np.inf,
    above: float = -np.inf,
    below: float = np.inf,
    optional: bool = False,
) -> FloatArray:
    """`value` as an array of shape (rows,) of finite numbers within the bounds.

    Args:
        name: of the parameter, for the error.
        value: shape (rows,), or a number for all rows.
        rows: M.
        least: inclusive bound.
        above: exclusive bound.
        below: exclusive bound.
        optional: NaN stands for a value that is not given.

    Raises:
        InvalidParameterError: names the first row where that is not so.

    """
    if isinstance(value, float) and (
        (least <= value < below and above < value < np.inf) or (optional and math.isnan(value))
    ):
        return np.full(rows, value)
    column = _column(name, value)
    if column.size == 1:
        column = np.full(rows, column[0])
    if column.size != rows:
        raise InvalidParameterError(
            name, f"has shape ({column.size},), the replicas have ({rows},)"
        )
    good = np.isfinite(column) & (column >= least) & (column > above) & (column < below)
    if optional:
        good |= np.isnan(column)
    for row in np.flatnonzero(~good):
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", least), (">", above), ("<", below))
            if np.isfinite(bound)
        ]
        raise InvalidParameterError(
            name, f"must be a number {' and '.join(bounds)}, not {column[row]:g}", index=int(row)
        )
    return column


def same_length(columns: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The columns, single values repeated.

    Raises:
        InvalidParameterError: two columns differ in length.

    """
    sizes = {name: column.size for name, column in columns.items() if column.size != 1}
    first = next(iter(sizes), None)
    rows = 1 if first is None else sizes[first]
    for name, size in sizes.items():
        if size != rows:
            raise InvalidParameterError(name, f"has shape ({size},), {first} has ({rows},)")
    if rows == 1:
        return dict(columns)
    return {
        name: np.full(rows, column[0]) if column.size == 1 else column
        for name, column in columns.items()
    }


def _column(name: str, value: ArrayLike | Any) -> FloatArray:
    try:
        column = np.array(value, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(name, f"must be numbers, not {value!r}") from error
    if column.ndim != 1:
        raise InvalidParameterError(name, f"has shape {column.shape}, must have one dimension")
    return column


def _lines(
    columns: Mapping[str, FloatArray],
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Base and slope over the batch of the prefill time, and of the whole request's time."""
    prompt, output = columns["input_tokens"], columns["output_tokens"]
    # One token without a prefill is one decode.
    decodes = np.where((prompt == 0) & (output == 1), 1.0, output - 1.0)
    prefill_base = np.where(prompt == 0, 0.0, columns["gamma_ms"])
    prefill_slope = columns["delta_ms"] * prompt
    return (
        prefill_base,
        prefill_slope,
        prefill_base + decodes * columns["alpha_ms"],
        prefill_slope + decodes * columns["beta_ms"],
    )
