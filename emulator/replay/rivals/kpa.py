"""Knative's pod autoscaler (KPA) on requests in flight: a stable window, and a panic window for bursts.

As in Knative Serving: the concurrency of all pods is averaged over 60 s and over 6 s; each average divided
by the target gives pods, rounded up, at most halved and at most multiplied by 1000 in one tick of 2 s. When
the panic window wants twice the ready pods or more, the larger of both counts, and nothing goes down until
that has not been the case for 60 s.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer

TICK_SECONDS = 2.0
STABLE_SECONDS, PANIC_SECONDS = 60.0, 6.0
PANIC_THRESHOLD = 2.0
"""Ratio of pods that the panic window wants to ready ones from which there is a panic."""
UP_RATE, DOWN_RATE = 1000.0, 2.0


@dataclass(slots=True)
class PodAutoscaler:
    """The decision of one revision's autoscaler, tick by tick.

    Attributes:
        target: Requests in flight per pod.
        panic_since: Time of the last tick that was over the panic threshold, seconds; None without a panic.
        most: Most pods wanted in this panic.

    """

    target: float
    panic_since: float | None = None
    most: int = 0

    def desired(self, now: float, *, stable: float, panic: float, ready: int) -> int:
        """Pods wanted.

        Args:
            now: Time, seconds.
            stable: Mean requests in flight over the stable window, of all pods together.
            panic: The same over the panic window.
            ready: Ready pods.

        """
        pods = max(ready, 1)
        highest, lowest = math.ceil(UP_RATE * pods), math.floor(pods / DOWN_RATE)
        by_window = math.ceil(stable / self.target), math.ceil(panic / self.target)
        over = by_window[1] / pods >= PANIC_THRESHOLD
        by_stable, by_panic = (min(max(item, lowest), highest) for item in by_window)
        if over:
            if self.panic_since is None:
                self.most = 0
            self.panic_since = now
        elif self.panic_since is not None and self.panic_since + STABLE_SECONDS < now:
            self.panic_since, self.most = None, 0
        if self.panic_since is None:
            return by_stable
        self.most = max(self.most, by_stable, by_panic)
        return self.most


class Kpa(ScalingPolicy):
    """KPA on requests running and waiting, those that wait for the first pod with them."""

    def __init__(self, cluster: ReplayCluster, *, target: float) -> None:
        super().__init__(cluster)
        self.name = f"kpa@{target:g}"
        self.title = f"KPA, {target:g} in flight per pod"
        self._scalers = {name: PodAutoscaler(target) for name in cluster.variants}
        samples = round(STABLE_SECONDS / TICK_SECONDS)
        self._in_flight: dict[str, deque[float]] = {
            name: deque(maxlen=samples) for name in cluster.variants
        }
        self._desired: dict[str, int] = {}

    def timers(self) -> Sequence[Timer]:
        return [Timer(TICK_SECONDS, 1.5, self._tick)]

    def _tick(self) -> None:
        cluster = self.cluster
        for name, variant in cluster.variants.items():
            window = self._in_flight[name]
            window.append(cluster.fleet.in_flight(name) + cluster.queued_share(name))
            recent = list(window)[-round(PANIC_SECONDS / TICK_SECONDS) :]
            desired = self._scalers[name].desired(
                cluster.now,
                stable=sum(window) / len(window),
                panic=sum(recent) / len(recent),
                ready=cluster.fleet.ready(name),
            )
            desired = min(max(desired, variant.min_replicas, 1), variant.max_replicas)
            self._desired[name] = desired
            cluster.scale(name, desired)

    def desired(self, variant: str) -> float:
        return float(self._desired.get(variant, math.nan))
