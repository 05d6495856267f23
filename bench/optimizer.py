"""Greedy and branch-and-bound on fleets of variants x 4 accelerators, capacity loose, tight and scarce.

Candidates are random but shaped like sized ones: faster accelerators cost more and need fewer replicas. Loose
capacity holds every variant's dearest wish, tight 70 % of what the cheapest plan takes, scarce 40 %.

The first table times the whole planning step, from a fleet of profiles and loads at batch 64 to decisions;
their reasons are found out when they are read: a second time of greedy has all of them, as the status needs
them. The second table times the solvers alone. CPU time of the process.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from adapter.planning import plan as planning
from adapter.planning.fleet import Fleet
from bench import planned_fleets
from optimizer import branch_and_bound, greedy, unlimited
from optimizer.problem import (
    Candidate,
    Current,
    Problem,
    SaturationPolicy,
    Solution,
    SolverName,
    VariantCandidates,
)

ACCELERATORS = planned_fleets.ACCELERATORS
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


def timed(
    solve: Callable[[Problem], Solution], given: Problem, repeats: int
) -> tuple[Solution, str]:
    """The plan, and median (min..max) of the seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        solution: Solution = solve(given)
        times.append(time.process_time() - start)
    return solution, f"{statistics.median(times):.3f} ({min(times):.3f}..{max(times):.3f})"


def with_reasons(given: Fleet) -> list[str]:
    """Plan a fleet and read all reasons, with the garbage collector paused as in the planning worker."""
    with planning.collection_paused():
        return [item.reason for item in planning.plan(given).decisions.values()]


def steps(largest: int) -> None:
    """Print the times of the whole planning step; goals at 1,000 variants: 0.15 s, exact and tight 2 s."""
    print(f"{'variants x 4':>12}  {'model':>6}  {'unlimited, s':>24}  {'greedy, tight, s':>24}"
          f"  {'greedy with reasons, s':>24}  {'exact, tight, s':>24}")  # fmt: skip
    for by_steps in (False, True):
        for count in (100, 1_000, 10_000):
            if count > largest * 2:
                break
            free = planned_fleets.fleet(count, steps=by_steps)
            tight = planned_fleets.tight(free)
            cells = []
            runs: Sequence[tuple[Fleet, SolverName, Callable[[Fleet], object], int]] = (
                (free, "unlimited", planning.plan, 7),
                (tight, "greedy", planning.plan, 7),
                (tight, "greedy", with_reasons, 7),
                (tight, "branch-and-bound", planning.plan, 3),
            )
            for given, solver, work, repeats in runs:
                solved = planned_fleets.solved_by(given, solver)
                middle, low, high = planned_fleets.cpu_seconds(
                    functools.partial(work, solved),
                    1 if count > 1_000 else repeats,
                )
                cells.append(f"{middle:.3f} ({low:.3f}..{high:.3f})")
            row = "  ".join(f"{cell:>24}" for cell in cells)
            print(f"{count:>12}  {'steps' if by_steps else 'lines':>6}  {row}", flush=True)
    print()


def main(largest: int) -> None:
    """Print the tables."""
    steps(largest)
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "largest", nargs="?", type=int, default=5_000, metavar="VARIANTS",
        help="largest fleet of the second table; the first has twice as many (default: 5000)",
    )  # fmt: skip
    main(parser.parse_args().largest)
