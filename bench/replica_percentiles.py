"""What share of the requests is within a target when a replica gets the model's rate for a percentile.

    python -P bench/replica_percentiles.py [--kind usual|wide] [--cases N] [--requests N] [--repeats N]

Replicas of `bench/replica_tails.py` are sized for TTFT alone, then for ITL alone, and the emulator's engine
serves each rate several times: lengths in another order, other arrivals. `as asked` is the share of cases
that keep p99 as 98.5 to 99.5 % (p95 as 92.5 to 97.5 %, p90 as 85 to 95 %), by the mean over the repeats and
by single ones; `noise` is the standard deviation between repeats over the share of misses. Where that is
large the truth is not known better: queues that form a few times an hour, or not at all.

Cases whose target does not bind (less than a fifth of the allowed misses is predicted) are not counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from analyzer.engine import state as engine_state
from analyzer.engine.percentiles import latency
from analyzer.engine.sizing import size_engines
from bench.replica import add_seed
from bench.replica_tails import Case, drawn

TARGETS = ("TTFT", "ITL")
WAITING = 1e-3
SHORT = 5000
"""Requests that tell the medians of an almost idle replica, which targets are multiples of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """One case sized for one target.

    Attributes:
        predicted: share of misses that the model expects at its rate.
        missed: share of misses of each repeat.
        kv_binds: whether the KV cache bounds the batch.
        slots: whether more than one request in a thousand waits for a slot in the batch.

    """

    predicted: float
    missed: NDArray[np.float64]
    kv_binds: bool
    slots: bool


def targets_ms(case: Case) -> tuple[float, float]:
    """TTFT and ITL targets: multiples of the medians where one tenth of the load is served."""
    most = float(size_engines(case.engines(), headroom=0.0).rate_rps[0])
    start = replace(
        case,
        input_tokens=case.input_tokens[:SHORT],
        output_tokens=case.output_tokens[:SHORT],
        gaps=case.gaps[:SHORT],
    )
    ttft, itl = (float(np.median(times)) for times in start.served(0.1 * most))
    return ttft * case.slack[0], itl * case.slack[1]


def delivered(
    case: Case, seed: int, percentile: float, repeats: int
) -> Iterator[tuple[str, Delivered]]:
    """Each target that can be met, by name."""
    engines, targets = case.engines(), targets_ms(case)
    for index, name in enumerate(TARGETS):
        target = {("ttft_ms", "itl_ms")[index]: targets[index]}
        rate = size_engines(engines, percentile=percentile, **target).rate_rps
        if np.isnan(rate[0]):
            continue
        state = engine_state.at_rate(engines, rate)
        times = latency(engines, state)
        exceeds = (times.ttft_exceeds, times.itl_exceeds)[index]
        missed = []
        for repeat in range(repeats):
            other = case.again(seed, repeat)
            missed.append(float((other.served(float(rate[0]))[index] > targets[index]).mean()))
        yield (
            name,
            Delivered(
                predicted=float(exceeds(np.array([targets[index]]))[0]),
                missed=np.array(missed),
                kv_binds=bool(engines.kv_binds[0]),
                slots=bool(state.slot_waits[0] > WAITING),
            ),
        )


def line(name: str, cases: list[Delivered], percentile: float) -> str:
    """One line of the table."""
    allowed = 1.0 - percentile
    band = allowed / 2.0
    means = np.array([one.missed.mean() for one in cases])
    single = np.array([one.missed for one in cases])
    spread = np.array([one.missed.std(ddof=1) for one in cases]) / np.maximum(means, allowed / 10)
    near = np.abs(means - allowed) <= band
    ends = " ".join(f"{1.0 - value:7.2%}" for value in np.quantile(means, (0.95, 0.5, 0.05)))
    return (
        f"{name:<10}{len(cases):>6}{near.mean():>11.0%}{(np.abs(single - allowed) <= band).mean():>9.0%}"
        f"{(means < allowed - band).sum():>8}{(means > allowed + band).sum():>8}"
        f"{np.median(spread):>15.0%}{np.quantile(spread, 0.9):>6.0%}   {ends}"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("usual", "wide"), default="usual")
    parser.add_argument("--cases", type=int, default=30, metavar="N")
    parser.add_argument("--requests", type=int, default=20_000, metavar="N")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="2 or more")
    parser.add_argument("--percentile", type=float, default=99.0, metavar="P")
    add_seed(parser)
    asked = parser.parse_args()
    share = asked.percentile / 100.0
    results: dict[str, list[Delivered]] = {name: [] for name in TARGETS}
    for seed in range(asked.seed, asked.seed + asked.cases):
        case = drawn(seed, asked.kind, asked.requests)
        for name, one in delivered(case, seed, share, asked.repeats):
            if one.predicted > 0.2 * (1.0 - share):
                results[name].append(one)
    print(
        f"{asked.kind} cases at p{asked.percentile:g}, {asked.requests} requests x {asked.repeats}"
    )
    print(
        f"{'target':<10}{'cases':>6}{'as asked':>11}{'single':>9}{'above':>8}{'below':>8}"
        f"{'noise (50th, 90th)':>21}   delivered (5th, 50th, 95th)"
    )
    for name, cases in results.items():
        for kind, some in (
            (name, cases),
            (f"{name} KV", [one for one in cases if one.kv_binds]),
            (f"{name} slots", [one for one in cases if one.slots]),
        ):
            if some:
                print(line(kind, some, share))
    return 0


if __name__ == "__main__":
    sys.exit(main())
