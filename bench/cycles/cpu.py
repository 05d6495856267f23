"""CPU of one whole cycle per variant: pods scraped, load recorded, sized, planned, and targets published.

Another process serves the pods' pages, 40 kB each, three per variant; counters grow. Planning is done in
this process; what goes to the worker and comes back is packed as for it. There is no cluster, so no status is
written. `pooled` is sizing behind a load-aware gateway. Medians over the cycles, and the least of whole ones,
which a busy machine inflates less. Goal: 10 ms per variant, pooled too.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import logging
import pickle
import pstats
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import aiohttp
import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapter.app.serving import settle_heap
from adapter.clock import Clock
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.transport import wire
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.store import TargetStore
from bench import collection, planned_fleets

GOAL_MS = 10.0
"""CPU per variant of a cycle."""

SETTLING = 3
"""Cycles that do not count: connections, and rates of the first windows."""

_ACCELERATORS = planned_fleets.ACCELERATORS[:3]
"""Those that each variant has a profile of."""

_MAX_BATCH = 64

STAGES = ("scrape", "reconcile", "plan")
Sent = TypeVar("Sent")

KINDS = tuple((model, shown) for model in ("lines", "steps") for shown in ("random", "pooled"))
"""Rows: model of a replica, and routing."""


def inputs(count: int, address: str, *, steps: bool) -> Inputs:
    """That many variants, each with a profile of every accelerator."""
    targets = fleet.Targets(itl_ms=24.0, ttft_ms=500.0)
    profiles = tuple(
        planned_fleets.profile(name, 1.0 / speed, _MAX_BATCH, steps=steps)
        for name, _, speed in _ACCELERATORS
    )
    variants: Sequence[VariantSource] = [
        replace(source, profiles=profiles, targets=targets, spec_replicas=source.replicas)
        for source in collection.variants(count, address)
    ]
    return Inputs(
        accelerators=tuple(
            fleet.Accelerator(name=name, device_type=name, unit_cost=cost)
            for name, cost, _ in _ACCELERATORS
        ),
        service_classes=(
            fleet.ServiceClass(
                name="Premium", priority=1, targets={item.model: targets for item in variants}
            ),
        ),
        variants=tuple(variants),
    )


@dataclass
class Seconds:
    """CPU seconds of the cycles by stage; what `plan` takes is part of none of the others."""

    of: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the CPU time of a stage, less what was planned meanwhile."""
        planned, start = sum(self.of["plan"]), time.process_time()
        yield
        self.of[stage].append(time.process_time() - start - (sum(self.of["plan"]) - planned))

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        """Plan as the worker does, in this process."""
        with self.timed("plan"):
            return _sent(planning.plan(_sent(snapshot)))


def _sent(value: Sent) -> Sent:
    """What the other process gets."""
    received: Sent = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own
    return received


async def measure(
    count: int, address: str, *, steps: bool, routing: fleet.Routing, rounds: int, pause: float
) -> tuple[Seconds, int]:
    """CPU seconds by stage, and how many variants have a target."""
    collecting = CollectionSettings(interval=pause, window=3 * pause)
    async with aiohttp.ClientSession(connector=wire.connector()) as session:
        seconds, clock = Seconds(), Clock()
        collector = Collector(session=session, clock=clock, settings=collecting)
        loop = ControlLoop(
            collector=collector,
            store=TargetStore(),
            clock=clock,
            planner=seconds.plan,
            settings=LoopSettings(collection=collecting, routing=routing),
        )
        loop.apply_inputs(inputs(count, address, steps=steps))
        for number in range(SETTLING + rounds):
            await asyncio.sleep(pause)
            if number == SETTLING:
                seconds.of.update({stage: [] for stage in STAGES})
            with seconds.timed("scrape"):
                await loop.scrape()
            with seconds.timed("reconcile"):
                await loop.reconcile()
        decided = sum(state.desired is not None for state in loop.states.values())
        collector.close()
    return seconds, decided


async def table(args: argparse.Namespace) -> None:
    """Print one row per kind of profile and routing, ms of CPU per variant."""
    print(f"{'variants':>8}  {'model':>6}  {'routing':>12}  " + "  ".join(
        f"{name + ', ms':>13}" for name in (*STAGES, "cycle", "least")) + "  decided")  # fmt: skip
    async with collection.pages() as address:
        for model, shown in KINDS:
            if args.only not in {None, f"{model} {shown}"}:
                continue
            seconds, decided = await measure(
                args.variants,
                address,
                steps=model == "steps",
                routing="least-loaded" if shown == "pooled" else "random",
                rounds=args.rounds,
                pause=args.pause,
            )
            whole = [sum(stages) for stages in zip(*seconds.of.values(), strict=True)]
            middles = [statistics.median(values) for values in (*seconds.of.values(), whole)]
            each = [1000.0 * value / args.variants for value in (*middles, min(whole))]
            print(
                f"{args.variants:>8}  {model:>6}  {shown:>12}  "
                + "  ".join(f"{value:>13.2f}" for value in each)
                + f"  {decided:>7}{'' if each[-1] <= GOAL_MS else '  over'}",
                flush=True,
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=200, help="default: 200")
    parser.add_argument("--rounds", type=int, default=7, help="cycles that count (default: 7)")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between (default: 5)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, too")
    parser.add_argument("--only", choices=[" ".join(kind) for kind in KINDS], help="one row")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    settle_heap()
    if not args.profile:
        asyncio.run(table(args))
        return
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    asyncio.run(table(args))
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
