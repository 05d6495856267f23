"""Time of one steady state and of one sizing, by max batch: median and spread over repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from analyzer import capacity, queueing


def median_us(work: Callable[[], object], repeats: int = 30) -> tuple[float, float, float]:
    """Median, minimum and maximum, microseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times), min(times), max(times)


def main() -> None:
    """Print the table."""
    print(f"{'max batch':>9}  {'analyze us (min..max)':>28}  {'size us (min..max)':>30}")
    for max_batch in (1, 8, 64, 256, 512):
        replica = queueing.Replica(
            alpha_ms=20.58,
            beta_ms=0.41,
            gamma_ms=5.2,
            delta_ms=0.001,
            input_tokens=128,
            output_tokens=178,
            max_batch=max_batch,
            max_queue=10 * max_batch,
        )
        rate = 0.7 * replica.max_rate_rps
        analyze = median_us(lambda replica=replica, rate=rate: queueing.analyze(replica, rate))  # type: ignore[misc]
        size = median_us(lambda replica=replica: capacity.size(replica, ttft_ms=500, itl_ms=40))  # type: ignore[misc]
        texts = [f"{m:.0f} ({low:.0f}..{high:.0f})" for m, low, high in (analyze, size)]
        print(f"{max_batch:>9}  {texts[0]:>28}  {texts[1]:>30}")


if __name__ == "__main__":
    main()
