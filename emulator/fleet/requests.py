"""Times of a fleet's requests as columns, written when a request ends: memory grows by 56 bytes a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.server import Request

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]

GIVEN_UP = -2
"""Variant of a request that its client has dropped."""

_TIMES = ("arrival_ms", "start_ms", "first_token_ms", "finish_ms")
_NUMBERS = ("input_tokens", "output_tokens", "model", "variant", "replica")
_LEAST = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """Columns with one entry per request, in order of arrival.

    A variant with an engine of its own tells times and replica of a request when it ends. A request that its
    client sent again has the times of the last attempt, and the arrival of the first.

    Attributes:
        arrival_ms: Time of arrival since the beginning.
        start_ms: Time at which the request entered a batch; NaN before.
        first_token_ms: Time of the first token; NaN before.
        finish_ms: Time of the last token; NaN before.
        input_tokens: Prompt tokens.
        output_tokens: Tokens to generate.
        model: Index into the fleet's `models`.
        variant: Index into the fleet's `variants`; -1 in the gateway, `GIVEN_UP` once its client dropped it.
        replica: Number of the server; -1 before the request entered a batch.

    """

    arrival_ms: FloatArray
    start_ms: FloatArray
    first_token_ms: FloatArray
    finish_ms: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    model: IntArray
    variant: IntArray
    replica: IntArray

    @property
    def ttft_ms(self) -> FloatArray:
        """Time to first token since the arrival, with the time in gateway and queue."""
        return self.first_token_ms - self.arrival_ms

    @property
    def itl_ms(self) -> FloatArray:
        """Mean inter-token latency of each request; 0 for a single token."""
        return (self.finish_ms - self.first_token_ms) / np.maximum(self.output_tokens - 1, 1)


class RequestLog:
    """Columns with one entry per request, by the request's index."""

    def __init__(self, expected: int = 0) -> None:
        """Columns for so many requests; more are taken too."""
        size = max(expected, _LEAST)
        self._columns: dict[str, npt.NDArray[Any]] = {
            **{name: np.empty(size) for name in _TIMES},
            **{name: np.empty(size, dtype=np.int32) for name in _NUMBERS},
        }

    def write(self, requests: Iterable[Request]) -> None:
        """Write the present state of these requests."""
        rows = [
            (
                item.index,
                (item.arrival_ms, item.start_ms, item.first_token_ms, item.finish_ms),
                (item.input_tokens, item.output_tokens, item.model, item.variant, item.replica),
            )
            for item in requests
        ]
        if not rows:
            return
        indices = [index for index, _, _ in rows]
        self._reserve(max(indices) + 1)
        for name, times in zip(_TIMES, zip(*(row[1] for row in rows), strict=True), strict=True):
            self._columns[name][indices] = times
        for name, numbers in zip(
            _NUMBERS, zip(*(row[2] for row in rows), strict=True), strict=True
        ):
            self._columns[name][indices] = numbers

    def results(self, size: int) -> Results:
        """The columns of the first `size` requests."""
        self._reserve(size)
        return Results(**{name: column[:size] for name, column in self._columns.items()})

    def _reserve(self, size: int) -> None:
        held = len(self._columns[_TIMES[0]])
        if size <= held:
            return
        more = max(size, 2 * held) - held
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, np.empty(more, dtype=column.dtype)])
