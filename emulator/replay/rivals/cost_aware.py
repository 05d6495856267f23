"""The cost-aware placement of the workload-variant-autoscaler up to 0.9, over the variants of each model.

Every 30 s demand is compared with supply, the sum of what replicas carry, starting ones included. Above the
upper share of it, replicas are added where a request costs least, and on the next variant where that one is
at its maximum; below the lower share, they are taken from the dearest variants first, and the cheapest keeps
one. Here demand is the rate of the last minute with what waits, and the rule knows what a replica carries
with mean latencies at the SLO targets. HPAs carry it out, with the scenario's scale-down window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emulator.replay import clairvoyant
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.replay.scenario import Hpa

UP, DOWN = 0.85, 0.70
"""Published shares of the capacity in use from which replicas are added, and below which some go."""
WINDOW_SECONDS, INTERVAL_SECONDS, SCRAPE_SECONDS = 60.0, 30.0, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One variant as the rule sees it.

    Attributes:
        replicas: Replicas that its scale asks for.
        capacity: Requests per second of one replica.
        cost: Cost of one replica, cents per hour.
        least: Fewest replicas.
        most: Most replicas.

    """

    replicas: int
    capacity: float
    cost: float
    least: int
    most: int


def placed(
    offers: Mapping[str, Offer], demand: float, *, up: float = UP, down: float = DOWN
) -> dict[str, int]:
    """Replicas by variant for a demand, requests per second."""
    replicas = {name: item.replicas for name, item in offers.items()}
    supply = sum(item.replicas * item.capacity for item in offers.values())
    required, spare = demand / up - supply, supply - demand / down
    if required > 0:
        for name in sorted(offers, key=lambda name: offers[name].cost / offers[name].capacity):
            item = offers[name]
            added = min(math.ceil(required / item.capacity - 1e-9), item.most - item.replicas)
            replicas[name] += max(added, 0)
            required -= max(added, 0) * item.capacity
            if required <= 0:
                break
    elif spare > 0:
        cheapest = min(offers, key=lambda name: offers[name].cost)
        for name in sorted(offers, key=lambda name: -offers[name].cost):
            item = offers[name]
            least = max(item.least, 1) if name == cheapest else item.least
            taken = min(math.floor(spare / item.capacity + 1e-9), item.replicas - least)
            replicas[name] -= max(taken, 0)
            spare -= max(taken, 0) * item.capacity
    return replicas


class CostAware(ScalingPolicy):
    """The rule; the lower threshold moves with the upper one."""

    def __init__(self, cluster: ReplayCluster, *, up: float = UP) -> None:
        super().__init__(cluster)
        self._up, self._down = up, up * DOWN / UP
        self.name = "cost-aware" if up == UP else f"cost-aware@{up:g}"
        self.title = f"WVA cost-aware, {self._down:.2g} to {up:g} of capacity"
        rates = clairvoyant.replica_capacity(self.scenario, cluster.traffic)
        self._capacity = {
            name: rate if math.isfinite(rate) else 1.0 for name, rate in rates.items()
        }
        self._offered: dict[str, list[int]] = {item.model: [] for item in self.scenario.models}
        self._desired: dict[str, int] = {}

    def timers(self) -> Sequence[Timer]:
        return [
            Timer(SCRAPE_SECONDS, 2.0, self._scrape),
            Timer(INTERVAL_SECONDS, 3.0 + SCRAPE_SECONDS, self._decide),
        ]

    def _scrape(self) -> None:
        for model, offered in self._offered.items():
            offered.append(self.cluster.fleet.offered(model))
            del offered[: -round(WINDOW_SECONDS / SCRAPE_SECONDS) - 1]

    def _decide(self) -> None:
        for model, offered in self._offered.items():
            names = [name for name, item in self.cluster.variants.items() if item.model == model]
            waiting = self.cluster.fleet.gateway(model) + sum(
                item.waiting for name in names for item in self.cluster.ready(name)
            )
            span = max(len(offered) - 1, 1) * SCRAPE_SECONDS
            demand = (offered[-1] - offered[0]) / span + waiting / WINDOW_SECONDS
            offers = {name: self._offer(name) for name in names}
            self._desired |= placed(offers, demand, up=self._up, down=self._down)

    def _offer(self, name: str) -> Offer:
        variant = self.cluster.variants[name]
        cost = self.scenario.accelerators[variant.accelerator].cost * variant.devices
        return Offer(
            replicas=self.cluster.spec_replicas[name],
            capacity=self._capacity[name],
            cost=cost,
            least=variant.min_replicas,
            most=variant.max_replicas,
        )

    def hpa(self) -> Hpa:
        """The HPA follows the number of replicas."""
        return self.scenario.hpa.model_copy(update={"tolerance": 0.0})

    def items(self, variant: str) -> list[str]:
        return [str(self._desired[variant])] if variant in self._desired else []

    def desired(self, variant: str) -> float:
        return float(self._desired.get(variant, math.nan))
