"""kthena's placement over heterogeneous targets: greedy by the cost of blocks that grow at an expansion rate.

An average of a metric per pod gives the number of replicas of all variants of a model together; it goes down
after the scenario's scale-down window. Above the minima, each variant's replicas are cut into blocks of 1, 2,
4, ... (expansion rate 200 %), and the blocks of all variants are filled in order of what a block costs,
whatever a replica carries.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer

RATE = 2.0
"""Default expansion rate: each block of a variant has twice the replicas of the one before."""
SCRAPE_SECONDS = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One variant: its name, bounds, and the cost of a replica in cents per hour."""

    name: str
    least: int
    most: int
    cost: float


def allocated(targets: Sequence[Target], replicas: int, *, rate: float = RATE) -> dict[str, int]:
    """Replicas by variant for a number of replicas of all together."""
    allocation = {item.name: item.least for item in targets}
    blocks: list[tuple[float, int, int]] = []
    for index, item in enumerate(targets):
        remaining, length = item.most - item.least, 1.0
        while remaining > 0:
            size = min(remaining, max(int(length), 1))
            blocks.append((item.cost * size, index, size))
            remaining -= size
            length *= rate
    remaining = replicas - sum(allocation.values())
    for _, index, size in sorted(blocks):
        taken = min(max(remaining, 0), size)
        allocation[targets[index].name] += taken
        remaining -= taken
    return allocation


class Expansion(ScalingPolicy):
    """The rule on requests in flight per pod."""

    def __init__(self, cluster: ReplayCluster, *, target: float) -> None:
        super().__init__(cluster)
        self._target = target
        self.name = f"expansion@{target:g}"
        self.title = f"kthena cost expansion, {target:g} in flight per pod"
        self._wants: dict[str, deque[tuple[float, int]]] = {
            item.model: deque() for item in self.scenario.models
        }

    def timers(self) -> Sequence[Timer]:
        return [Timer(SCRAPE_SECONDS, 2.0, self._decide)]

    def _decide(self) -> None:
        cluster = self.cluster
        for model, wants in self._wants.items():
            members = [item for item in cluster.variants.values() if item.model == model]
            present = sum(cluster.spec_replicas[item.name] for item in members)
            in_flight = cluster.fleet.gateway(model) + sum(
                cluster.fleet.in_flight(item.name) for item in members
            )
            usage = in_flight / (self._target * max(present, 1))
            want = present
            if abs(usage - 1.0) > TOLERANCE:
                want = max(math.ceil(in_flight / self._target), 1)
            wants.append((cluster.now, want))
            while wants[0][0] < cluster.now - self.scenario.hpa.scale_down_stabilization:
                wants.popleft()
            targets = [
                Target(
                    name=item.name,
                    least=item.min_replicas,
                    most=item.max_replicas,
                    cost=self.scenario.accelerators[item.accelerator].cost * item.devices,
                )
                for item in members
            ]
            for name, number in allocated(targets, max(n for _, n in wants)).items():
                cluster.scale(name, number)

    def desired(self, variant: str) -> float:
        return float(self.cluster.spec_replicas[variant])
