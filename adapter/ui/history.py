"""Six hours of every variant in memory: samples in three rings, coarser with age.

Bounds: 192 slots of 15 numbers of 4 bytes, and a count of each number in each ring's present slot, are 11,610
bytes per variant: 11.6 MB for 1,000 variants. Rows are allocated for as many variants as there are, at least
doubling, and for no more than `MOST_VARIANTS`. Decisions are in the variants' states.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIELDS = (
    "offered",
    "planned",
    "desired",
    "ready",
    "ttft",
    "itl",
    "ttft_predicted",
    "itl_predicted",
    "kv",
    "cost",
    "waiting",
    "ttft_p50",
    "ttft_p95",
    "itl_p50",
    "itl_p95",
)
"""Numbers of one sample, as attributes of `rows.Row`."""

_numbers = operator.attrgetter(*FIELDS)

_STEP = 100
"""Variants whose numbers are taken at a time."""

TIERS = ((10.0, 60), (60.0, 60), (300.0, 72))
"""Seconds per slot and number of slots of each ring: ten minutes, one hour, six hours."""

SAMPLE_SECONDS = TIERS[0][0]
"""Seconds between two samples."""

SPAN_SECONDS = TIERS[-1][0] * TIERS[-1][1]
"""Seconds that the history reaches back."""

MOST_VARIANTS = 2000
"""Variants with a history; of those beyond it none is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What is known of one variant, oldest first.

    Attributes:
        times: Unix times, shape (K,).
        seconds: Length of each slot in seconds, shape (K,).
        values: Numbers by field, each of shape (K,); NaN where nothing is known.

    """

    times: NDArray[np.float64]
    seconds: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float32]]


class _Ring:
    """Slots of equal length over all variants; the newest holds means of its samples so far."""

    def __init__(self, seconds: float, slots: int) -> None:
        self.seconds = seconds
        self._slots = slots
        self._numbers = np.full(slots, -1, dtype=np.int64)
        self._values = np.full((0, slots, len(FIELDS)), np.nan, dtype=np.float32)
        self._counts = np.zeros((0, len(FIELDS)), dtype=np.uint16)

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._counts.nbytes + self._numbers.nbytes

    def resize(self, rows: int) -> None:
        more = rows - len(self._values)
        empty = np.full((more, *self._values.shape[1:]), np.nan, dtype=np.float32)
        self._values = np.concatenate([self._values, empty])
        counts = np.zeros((more, len(FIELDS)), dtype=np.uint16)
        self._counts = np.concatenate([self._counts, counts])

    def clear(self, row: int) -> None:
        self._values[row] = np.nan
        self._counts[row] = 0

    def add(self, now: float, samples: NDArray[np.float32]) -> None:
        """Add a sample of every row, NaN where there is none."""
        number = int(now // self.seconds)
        slot = number % self._slots
        if self._numbers[slot] != number:
            self._numbers[slot] = number
            self._values[:, slot] = np.nan
            self._counts[:] = 0
        known = np.isfinite(samples)
        self._counts += known
        last = np.where(np.isnan(self._values[:, slot]), 0.0, self._values[:, slot])
        mean = last + (np.where(known, samples, 0.0) - last) / np.maximum(self._counts, 1)
        self._values[:, slot] = np.where(known, mean, self._values[:, slot])

    def read(self, row: int, *, since: float, until: float) -> tuple[Any, Any]:
        """Times of the middles of slots, and their values, within two Unix times; oldest first."""
        order = np.argsort(self._numbers)
        starts = self._numbers[order] * self.seconds
        kept = order[
            (self._numbers[order] >= 0) & (starts >= since) & (starts + self.seconds <= until)
        ]
        return self._numbers[kept] * self.seconds + self.seconds / 2, self._values[row, kept]


class History:
    """Samples of the variants, since this process began to record."""

    def __init__(self) -> None:
        self._rings = [_Ring(seconds, slots) for seconds, slots in TIERS]
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._size = 0
        self._last: Sequence[Any] | None = None
        self._samples = np.full((0, len(FIELDS)), np.nan, dtype=np.float32)
        self.since: float | None = None
        self.unrecorded = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the samples."""
        return sum(ring.nbytes for ring in self._rings)

    def record(self, now: float, rows: Sequence[Any]) -> None:
        """Record one sample of every variant at a Unix time; variants that are gone are forgotten.

        Args:
            now: Unix time in seconds.
            rows: One `rows.Row` per variant; the same object as before means that nothing has changed.

        """
        for _ in self.sampling(rows):
            pass
        self.since = now if self.since is None else self.since
        for ring in self._rings:
            ring.add(now, self._samples)

    def sampling(self, rows: Sequence[Any]) -> Iterator[None]:
        """Take the numbers of every variant, some at each step, for `record` of the same rows.

        Rows are given to new variants and taken from those gone.
        """
        if rows is self._last:
            return
        by_key = {row.key: row for row in rows}
        for key in [key for key in self._rows if key not in by_key]:
            self._forget(key)
        new = [key for key in by_key if key not in self._rows]
        room = MOST_VARIANTS - len(self._rows)
        self.unrecorded = max(len(new) - room, 0)
        self._reserve(len(self._rows) + min(len(new), max(room, 0)))
        for key in new[: max(room, 0)]:
            self._rows[key] = self._free.pop()
        samples = np.full((self._size, len(FIELDS)), np.nan, dtype=np.float32)
        known = list(self._rows.items())
        for start in range(0, len(known), _STEP):
            yield
            some = known[start : start + _STEP]
            # None becomes NaN.
            numbers = [_numbers(by_key[key]) for key, _ in some]
            samples[[place for _, place in some]] = np.array(numbers, dtype=np.float32)
        self._samples, self._last = samples, rows

    def series(self, key: str, *, now: float) -> Series | None:
        """Read what is known of one variant; None where nothing is."""
        row = self._rows.get(key)
        if row is None:
            return None
        parts: list[tuple[Any, Any, float]] = []
        until = np.inf
        # Of each time the finest ring that reaches so far.
        for ring, (seconds, slots) in zip(self._rings, TIERS, strict=True):
            since = np.floor(now / seconds) * seconds - (slots - 1) * seconds
            coarser = next((step for step, _ in TIERS if step > seconds), seconds)
            since = np.ceil(since / coarser) * coarser
            times, values = ring.read(row, since=since, until=until)
            parts.append((times, values, seconds))
            until = since
        parts.reverse()
        times = np.concatenate([part[0] for part in parts])
        values = np.concatenate([part[1] for part in parts])
        lengths = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
        return Series(
            times=times,
            seconds=lengths,
            values={name: values[:, place] for place, name in enumerate(FIELDS)},
        )

    def _reserve(self, rows: int) -> None:
        """Have room for so many variants."""
        if rows > self._size:
            more = min(max(rows, 2 * self._size, 16), MOST_VARIANTS)
            for ring in self._rings:
                ring.resize(more)
            self._free += range(more - 1, self._size - 1, -1)
            self._size = more

    def _forget(self, key: str) -> None:
        row = self._rows.pop(key)
        for ring in self._rings:
            ring.clear(row)
        self._free.append(row)
