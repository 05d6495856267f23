"""Metrics pages that are another one at each scrape: what is remembered of them is bounded in bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import pytest

from adapter.collector.servers import buckets, moments

MIB = 2**20


@pytest.mark.parametrize(
    ("read", "bounds", "engines"),
    [
        pytest.param(moments.of_buckets, 2400, 1, id="lengths"),
        pytest.param(buckets.histogram, 120, 20, id="latencies"),
    ],
)
def test_ever_other_buckets_are_kept_in_bounded_memory(
    read: Callable[[Sequence[str], Sequence[float]], object], bounds: int, engines: int
) -> None:
    """Histograms of thousands of buckets take up to a MiB each to remember: 256 were 220 MiB, for good."""
    tracemalloc.start()
    try:
        for number in range(120):
            written = [f"{bound}.{number}" for bound in range(1, bounds)] * engines
            texts = [text[:-1] + text[-1:] for text in written]  # each is of its own, as of a page
            assert read(texts, [0.0] * len(texts)) is not None
        assert tracemalloc.get_traced_memory()[0] < 16 * MIB
    finally:
        tracemalloc.stop()
