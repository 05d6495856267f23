"""A planner like Dynamo's load-based one for aggregated workers, with its static thresholds.

Every 5 s, unless a change is still under way: the KV tokens of running and waiting requests over the KV
cache, worker by worker. One above the upper threshold adds a worker; all below the lower one take one away.
Dynamo's `throughput` target has 1.0 and 0.6; a threshold of one's own (its `load` target) keeps that ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.server import Counters

INTERVAL_SECONDS = 5.0
UP, DOWN = 1.0, 0.6


def workers(utilization: Sequence[float], number: int, *, up: float, down: float) -> int:
    """Workers wanted, from the utilization of each."""
    if any(item > up for item in utilization):
        return number + 1
    if number > 1 and utilization and all(item < down for item in utilization):
        return number - 1
    return number


def utilization(item: Counters) -> float:
    """KV use of a worker with what waits: as much per waiting request as per running one."""
    if item.running:
        return item.kv_cache * (1 + item.waiting / item.running)
    return math.inf if item.waiting else item.kv_cache


class Dynamo(ScalingPolicy):
    """One worker more or less at a time, by KV use and queue."""

    def __init__(self, cluster: ReplayCluster, *, up: float = UP) -> None:
        super().__init__(cluster)
        self._up, self._down = up, up * DOWN / UP
        self.name = "dynamo" if up == UP else f"dynamo@{up:g}"
        self.title = f"Dynamo-like load planner, {self._down:.2g} to {up:g}"

    def timers(self) -> Sequence[Timer]:
        return [Timer(INTERVAL_SECONDS, 4.5, self._plan)]

    def _plan(self) -> None:
        cluster = self.cluster
        for name, variant in cluster.variants.items():
            ready = cluster.ready(name)
            number = cluster.spec_replicas[name]
            if len(ready) != number:
                continue  # a change is under way
            used = [utilization(item) for item in ready]
            desired = workers(used, number, up=self._up, down=self._down)
            cluster.scale(name, min(max(desired, variant.min_replicas, 1), variant.max_replicas))

    def desired(self, variant: str) -> float:
        return float(self.cluster.spec_replicas[variant])
