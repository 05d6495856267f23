"""Policies without foresight that know more than any autoscaler can: the true rate and the backlog, now.

Every 5 s they want as many replicas as the rate of the 75 s around this moment needs, times a factor, and as
many as serve the requests in flight at the engine's in-service count at capacity; they keep what they wanted
in the last seconds. Replicas still take their time to start: what these policies miss takes spare capacity
or foresight. They are a yardstick, not a proven bound.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer

INTERVAL_SECONDS = 5.0
NAME = "without-foresight"
FACTORS = (0.9, 1.0, 1.1, 1.25, 1.5)
"""Factors on the replicas that the rate needs."""
HOLDS = (60.0, 300.0)
"""Seconds for which a want is kept."""


class Informed(ScalingPolicy):
    """One of them, see the module's docstring."""

    def __init__(
        self,
        cluster: ReplayCluster,
        *,
        factor: float,
        hold: float,
        needed: Mapping[str, Sequence[float]],
        bin_seconds: float,
        in_service: Mapping[str, float],
    ) -> None:
        """Create the policy.

        Args:
            cluster: The cluster.
            factor: Factor on the replicas that the rate needs.
            hold: Seconds for which a want is kept.
            needed: Replicas that each bin's rate needs, by variant, as a fraction.
            bin_seconds: Seconds of a bin.
            in_service: Requests that a replica serves at capacity, by variant.

        """
        super().__init__(cluster)
        self.name, self.title = NAME, "best without foresight"
        self._factor, self._hold = factor, hold
        self._needed, self._bin = needed, bin_seconds
        self._in_service = in_service
        self._wants: dict[str, deque[tuple[float, int]]] = {n: deque() for n in cluster.variants}

    def timers(self) -> Sequence[Timer]:
        return [Timer(INTERVAL_SECONDS, 0.5, self._decide)]

    def _decide(self) -> None:
        cluster = self.cluster
        for name, variant in cluster.variants.items():
            needed = self._needed[name]
            by_rate = needed[min(int(cluster.now / self._bin), len(needed) - 1)] if needed else 0.0
            in_flight = cluster.fleet.in_flight(name) + cluster.queued_share(name)
            load = max(self._factor * by_rate, in_flight / self._in_service[name])
            want = min(max(math.ceil(load - 1e-9), variant.min_replicas, 1), variant.max_replicas)
            wants = self._wants[name]
            wants.append((cluster.now, want))
            while wants[0][0] < cluster.now - self._hold:
                wants.popleft()
            cluster.scale(name, max(number for _, number in wants))

    def desired(self, variant: str) -> float:
        return float(self.cluster.spec_replicas[variant])
