"""Times of the analyzer: one replica by max batch, whole fleets of variants x 4 accelerators, and their plan.

Every figure is a median with its range over repeats, CPU time of the process in one run. `growth` is the time
per pair against the smallest fleet's: 1 is linear. The last table times the whole planning step, from a fleet
to its decisions, without capacity: `bench/optimizer.py` has it with one.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from adapter.planning import plan as planning
from adapter.planning.fleet import Routing
from analyzer import capacity, queueing
from analyzer.engine import sizing
from analyzer.engine.columns import Engine
from analyzer.step_times import EngineLimits, Lengths, StepTimes
from bench import planned_fleets

ACCELERATORS = 4


def measured(work: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median, minimum and maximum, seconds."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times), min(times), max(times)


def text(times: tuple[float, float, float], factor: float, digits: int) -> str:
    """Median (min..max) in another unit."""
    middle, low, high = (f"{value * factor:.{digits}f}" for value in times)
    return f"{middle} ({low}..{high})"


def fleet(pairs: int, max_batch: int) -> tuple[queueing.Replicas, dict[str, np.ndarray]]:
    """Random profiles and loads with targets that bind for most of them."""
    rng = np.random.default_rng(pairs + max_batch)
    alpha, beta = rng.uniform(5, 40, pairs), rng.uniform(0.05, 1.5, pairs)
    gamma, delta = rng.uniform(2, 60, pairs), rng.uniform(0.0005, 0.02, pairs)
    prompt = rng.integers(32, 4000, pairs)
    replicas = queueing.Replicas(
        alpha_ms=alpha,
        beta_ms=beta,
        gamma_ms=gamma,
        delta_ms=delta,
        input_tokens=prompt,
        output_tokens=rng.integers(16, 800, pairs),
        max_batch=max_batch,
        max_queue=10 * max_batch,
    )
    return replicas, {
        "ttft_ms": (gamma + delta * prompt * max_batch) * rng.uniform(0.1, 5, pairs),
        "itl_ms": alpha + beta * max_batch * rng.uniform(0.05, 0.95, pairs),
    }


def singles() -> None:
    """One replica at a time, through the scalar API, and its share of a batch of 1,000."""
    print(
        f"{'max batch':>9}  {'analyze one, us':>22}  {'size one, us':>24}"
        f"  {'size in a batch, us':>22}  one/batch"
    )
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
        analyze = measured(functools.partial(queueing.analyze, replica, rate), 50)
        size = measured(functools.partial(capacity.size, replica, ttft_ms=500, itl_ms=40), 30)
        replicas, targets = fleet(1000, max_batch)
        batch = measured(functools.partial(capacity.size_all, replicas, **targets), 5)
        print(
            f"{max_batch:>9}  {text(analyze, 1e6, 0):>22}  {text(size, 1e6, 0):>24}"
            f"  {text(batch, 1e6 / 1000, 1):>22}  {size[0] / batch[0] * 1000:>8.0f}x"
        )


def engines() -> None:
    """One replica with step times, for means and for p95."""
    print(f"\n{'max_num_seqs':>12}  {'size means, ms':>24}  {'size p95, ms':>24}")
    for seqs in (8, 64, 256, 512):
        engine = Engine(
            step_times=StepTimes(
                base_ms=8.0,
                per_request_ms=0.05,
                per_prefill_token_ms=0.02,
                per_context_token_ms=2e-5,
            ),
            limits=EngineLimits(max_num_seqs=seqs, max_num_batched_tokens=8192, kv_tokens=400_000),
            lengths=Lengths(input_tokens=1024, output_tokens=256, input_cv=1.0, output_cv=0.6),
        )
        means, tails = (
            measured(
                functools.partial(
                    sizing.size_engine, engine, ttft_ms=500, itl_ms=25, percentile=percentile
                ),
                100,
            )
            for percentile in (None, 0.95)
        )
        print(f"{seqs:>12}  {text(means, 1e3, 2):>24}  {text(tails, 1e3, 2):>24}")


def fleets() -> None:
    """Sizing of whole fleets in one call: TTFT and ITL of every pair."""
    print(f"\n{'max batch':>9}  {'variants x 4':>12}  {'targets on':>10}  {'seconds':>22}  growth")
    for max_batch in (64, 256):
        for name, percentile in (("means", float("nan")), ("p95", 0.95)):
            first = 0.0
            for variants in (100, 1_000, 10_000):
                replicas, targets = fleet(variants * ACCELERATORS, max_batch)
                times = measured(
                    functools.partial(
                        capacity.size_all, replicas, **targets, percentile=percentile
                    ),
                    5 if variants < 10_000 else 3,
                )
                each = times[0] / variants
                first = first or each
                print(
                    f"{max_batch:>9}  {variants:>12}  {name:>10}  {text(times, 1, 4):>22}"
                    f"  {each / first:>6.2f}"
                )


def steps() -> None:
    """The whole planning step of `adapter.planning.plan`, by the model of the replicas and their routing."""
    print(
        f"\n{'variants x 4':>12}  {'model':>8}  {'routing':>12}  {'plan, seconds':>24}  {'ms/variant':>10}"
    )
    kinds: Sequence[tuple[str, bool, Routing]] = (
        ("lines", False, "random"),
        ("lines", False, "least-loaded"),
        ("steps", True, "random"),
    )
    for name, by_steps, routing in kinds:
        for variants in (1, 100, 1_000, 10_000):
            given = planned_fleets.fleet(variants, steps=by_steps, routing=routing)
            times = planned_fleets.cpu_seconds(
                functools.partial(planning.plan, given),
                3 if variants > 1_000 else 7,
            )
            print(
                f"{variants:>12}  {name:>8}  {routing:>12}  {text(times, 1, 4):>24}"
                f"  {times[0] / variants * 1e3:>10.3f}"
            )


if __name__ == "__main__":
    singles()
    engines()
    fleets()
    steps()
