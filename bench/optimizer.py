"""Greedy and branch-and-bound on fleets of variants x 4 accelerators, capacity loose, tight and scarce.

Candidates are random but shaped like sized ones: faster accelerators cost more and need fewer replicas. Loose
capacity holds every variant's dearest wish, tight 70 % of what the cheapest plan takes, scarce 40 %.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from optimizer import branch_and_bound, greedy, unlimited
from optimizer.problem import (
    Candidate,
    Current,
    Problem,
    SaturationPolicy,
    Solution,
    VariantCandidates,
)

ACCELERATORS = (
    ("L40S", 32.0, 1.0),
    ("A100", 40.0, 1.6),
    ("H100", 90.0, 4.0),
    ("MI300X", 65.0, 3.1),
)
SHARES = {"loose": 4.0, "tight": 0.7, "scarce": 0.4}


def problem(count: int, share: float, policy: SaturationPolicy = "None") -> Problem:
    """A fleet of that many variants with that share of the devices its cheapest plan takes."""
    rng = np.random.default_rng(count)
    variants = []
    for number in range(count):
        load = rng.lognormal(0.5, 1.0)
        candidates = []
        for name, price, speed in ACCELERATORS:
            if rng.random() < 0.1:
                continue
            devices = int(rng.choice([1, 1, 2, 4]))
            pace = speed * devices**0.8 * rng.uniform(0.7, 1.3)
            replicas = max(int(np.ceil(3 * load / pace)), 1)
            candidates.append(
                Candidate(
                    accelerator=name,
                    replicas=replicas,
                    max_batch=64,
                    cost=replicas * devices * price,
                    itl_ms=0.0,
                    ttft_ms=0.0,
                    max_rate_rpm=0.0,
                    device_type=name,
                    devices=devices,
                )
            )
        if not candidates:
            continue
        now = candidates[int(rng.integers(len(candidates)))]
        variants.append(
            VariantCandidates(
                name=f"v{number:05}",
                candidates=tuple(candidates),
                priority=int(rng.choice([1, 2, 3])),
                current=Current(accelerator=now.accelerator, replicas=now.replicas, cost=now.cost),
            )
        )
    cheapest = unlimited.solve(Problem(variants=tuple(variants)))
    used = dict.fromkeys((name for name, _, _ in ACCELERATORS), 0)
    for got in cheapest.allocations.values():
        if got.candidate is not None:
            used[got.candidate.device_type] += got.devices
    capacity = {name: int(share * devices) + 1 for name, devices in used.items()}
    return Problem(variants=tuple(variants), capacity=capacity, policy=policy, time_limit_s=60)


def timed(solve: object, given: Problem, repeats: int) -> tuple[Solution, str]:
    """The plan, and median (min..max) of the seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found: Solution = solve(given)  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return found, f"{statistics.median(times):.3f} ({min(times):.3f}..{max(times):.3f})"


def main(largest: int) -> None:
    """Print the table."""
    print(
        f"{'variants':>8} {'capacity':>8} {'policy':>18}  {'greedy, s':>21}  {'branch-and-bound, s':>24}"
        f"  {'end':>8} {'gap':>8}  {'served g/b':>13}  {'cost b/g':>8}"
    )
    for count in (10, 100, 1_000, 5_000):
        if count > largest:
            break
        for name, share in SHARES.items():
            policies: tuple[SaturationPolicy, ...] = (
                ("None",) if name != "scarce" else ("None", "PriorityExhaustive")
            )
            for policy in policies:
                given = problem(count, share, policy)
                first, quick = timed(greedy.solve, given, 5)
                best, slow = timed(branch_and_bound.solve, given, 3 if count < 5_000 else 1)
                served = [
                    sum(1 for got in plan.allocations.values() if got.served == "full")
                    for plan in (first, best)
                ]
                gap = "-" if best.gap is None else f"{best.gap:.1e}"
                print(
                    f"{count:>8} {name:>8} {policy:>18}  {quick:>21}  {slow:>24}  {best.termination:>8}"
                    f" {gap:>8}  {served[0]:>6}/{served[1]:<6}  {best.total_cost / first.total_cost:>8.3f}"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
