"""Rows of benchmark runs as the fit of step times takes them, and how far equal loads repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analyzer.errors import InvalidParameterError
from analyzer.replicas import BoolArray, FloatArray, checked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchmarkRows:
    """M runs, each at one load; build with `rows_of`.

    Attributes:
        concurrency: requests inside on average (running and waiting), shape (M,), > 0.
        input_tokens: mean per request, shape (M,), >= 0.
        output_tokens: mean per request, shape (M,), >= 1.
        itl_ms: mean inter-token latency, shape (M,); NaN where it was not measured.
        ttft_ms: mean time to first token, shape (M,); NaN where it was not measured.
        open_loop: arrivals do not wait for answers, shape (M,).
        unlimited: the tool sent all requests at once (request rate "inf" without a limit, throughput
            strategy).

    """

    concurrency: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    itl_ms: FloatArray
    ttft_ms: FloatArray
    open_loop: BoolArray
    unlimited: BoolArray

    @property
    def size(self) -> int:
        """Number of rows, M."""
        return self.concurrency.size

    @property
    def context_tokens(self) -> FloatArray:
        """Tokens that a request holds on average while it decodes, shape (M,)."""
        return self.input_tokens + self.output_tokens / 2.0

    @property
    def request_ms(self) -> FloatArray:
        """Time of one request from arrival to its last token, shape (M,); NaN without TTFT or ITL."""
        return np.asarray(self.ttft_ms + (self.output_tokens - 1.0) * self.itl_ms)

    @property
    def throughput_rps(self) -> FloatArray:
        """Requests per second by Little's law, shape (M,); NaN without TTFT or ITL."""
        return np.asarray(1000.0 * self.concurrency / np.maximum(self.request_ms, 1e-9))

    def part(self, which: BoolArray) -> BenchmarkRows:
        """The rows at which `which`, shape (M,), is True."""
        return BenchmarkRows(
            concurrency=self.concurrency[which],
            input_tokens=self.input_tokens[which],
            output_tokens=self.output_tokens[which],
            itl_ms=self.itl_ms[which],
            ttft_ms=self.ttft_ms[which],
            open_loop=self.open_loop[which],
            unlimited=self.unlimited[which],
        )


def rows_of(
    *,
    concurrency: ArrayLike,
    input_tokens: ArrayLike,
    output_tokens: ArrayLike,
    itl_ms: ArrayLike,
    ttft_ms: ArrayLike = np.nan,
    open_loop: ArrayLike = False,
    unlimited: ArrayLike = False,
) -> BenchmarkRows:
    """Check columns of shape (M,), or numbers for all rows, and make rows of them.

    Raises:
        InvalidParameterError: a number is out of its range; names the row.

    """
    size = np.size(concurrency)
    if size == 0:
        raise InvalidParameterError("concurrency", "has no rows")
    return BenchmarkRows(
        concurrency=checked("concurrency", concurrency, size, above=0.0),
        input_tokens=checked("input_tokens", input_tokens, size, least=0.0),
        output_tokens=checked("output_tokens", output_tokens, size, least=1.0),
        itl_ms=checked("itl_ms", itl_ms, size, above=0.0, optional=True),
        ttft_ms=checked("ttft_ms", ttft_ms, size, above=0.0, optional=True),
        open_loop=np.array(np.broadcast_to(open_loop, size), dtype=np.bool_),
        unlimited=np.array(np.broadcast_to(unlimited, size), dtype=np.bool_),
    )


def disagreement(rows: BenchmarkRows) -> float:
    """Mean share by which no function of the load can predict each row's ITL.

    Rows of equal lengths are compared: between two concurrencies ITL does not fall, and grows at most in
    proportion to the others inside. What two rows differ by beyond that is a setting that the rows do not
    name (speculative decoding, expert parallelism, a concurrency counted per rank) or a bad measurement.
    Predicting their middle leaves half of it.
    """
    n, itl = rows.concurrency, rows.itl_ms
    same = (np.abs(rows.input_tokens[:, None] - rows.input_tokens) <= 0.02 * rows.input_tokens) & (
        np.abs(rows.output_tokens[:, None] - rows.output_tokens) <= 0.02 * rows.output_tokens
    )
    # [a, b]: how far a is above b, and the most that it can be for its concurrency.
    apart = np.log(itl[:, None] / itl)
    others = np.maximum(n - 1.0, 0.25)
    growth = np.log(np.maximum(others[:, None] / others, 1.0))
    above = np.where(n[:, None] >= n, np.maximum(apart - growth, 0.0), np.maximum(apart, 0.0))
    above = np.where(same, np.nan_to_num(above), 0.0)
    excess = np.maximum(above, above.T)
    return float(np.expm1(excess.max(axis=1) / 2.0).mean())
