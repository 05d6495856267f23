"""The policies that are compared: ours, what people use today, and two that need no metric.

Each says what an HPA reads, or scales by itself; what it knows comes from the replicas' metrics alone, at
the times at which it would have them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emulator.replay.cluster import ReplayCluster
from emulator.replay.scenario import Hpa, Scenario


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that is done every `period` seconds, first at `phase`."""

    period: float
    phase: float
    action: Callable[[], None]


class Policy(ABC):
    """One way to scale."""

    name = ""
    title = ""
    notes: tuple[str, ...] = ()

    def __init__(self, cluster: ReplayCluster) -> None:
        self.cluster = cluster
        self.scenario: Scenario = cluster.scenario

    @abstractmethod
    def timers(self) -> Sequence[Timer]:
        """What it does, and when."""

    def items(self, variant: str) -> list[str] | None:
        """What the HPA reads for a variant now; None: there is no HPA."""
        del variant
        return None

    def hpa(self) -> Hpa:
        """How its HPAs are set."""
        return self.scenario.hpa

    def target(self) -> str:
        """The HPA's AverageValue."""
        return "1"

    def desired(self, variant: str) -> float:
        """Replicas that it wants, for the curves; NaN where it says nothing."""
        del variant
        return math.nan

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what it holds."""


class Static(Policy):
    """A fleet that is sized once and left alone."""

    name = "static"
    title = "static for the peak"

    def __init__(self, cluster: ReplayCluster, replicas: dict[str, int]) -> None:
        super().__init__(cluster)
        self._replicas = replicas

    def timers(self) -> Sequence[Timer]:
        return [Timer(math.inf, 0.0, self._set)]

    def _set(self) -> None:
        for name, number in self._replicas.items():
            self.cluster.scale(name, number)

    def desired(self, variant: str) -> float:
        return float(self._replicas[variant])


class Scheduled(Policy):
    """Replicas by a timetable that was made by who knows the traffic."""

    name = "clairvoyant"
    title = "clairvoyant"

    def __init__(
        self, cluster: ReplayCluster, timetable: dict[str, list[tuple[float, int]]]
    ) -> None:
        super().__init__(cluster)
        self._timetable = timetable
        self._now = {name: cluster.variants[name].replicas for name in timetable}

    def timers(self) -> Sequence[Timer]:
        def at(name: str, replicas: int) -> Callable[[], None]:
            return lambda: self._set(name, replicas)

        return [
            Timer(math.inf, seconds, at(name, replicas))
            for name, entries in self._timetable.items()
            for seconds, replicas in entries
        ]

    def _set(self, name: str, replicas: int) -> None:
        self._now[name] = replicas
        self.cluster.scale(name, replicas)

    def desired(self, variant: str) -> float:
        return float(self._now[variant])


class _Gauge(Policy):
    """An HPA on the sum of one of vLLM's gauges, as its pods showed it at the last scrape."""

    def __init__(self, cluster: ReplayCluster) -> None:
        super().__init__(cluster)
        self._seen: dict[str, list[str] | None] = dict.fromkeys(cluster.variants)

    def timers(self) -> Sequence[Timer]:
        return [Timer(self.scenario.loop.scrape_interval, 2.0, self._scrape)]

    @abstractmethod
    def _value(self, variant: str) -> float:
        """The sum over the ready replicas."""

    def _scrape(self) -> None:
        for name in self.cluster.variants:
            there = bool(self.cluster.ready(name))
            self._seen[name] = [f"{self._value(name):.3f}"] if there else None

    def items(self, variant: str) -> list[str]:
        return self._seen[variant] or []


class Queue(_Gauge):
    """`num_requests_waiting` per replica: what most guides suggest."""

    name = "hpa-queue"
    title = "HPA on queue length"

    def _value(self, variant: str) -> float:
        return float(sum(item.waiting for item in self.cluster.ready(variant)))

    def target(self) -> str:
        return f"{self.scenario.hpa.queue_target:g}"


class KvCache(_Gauge):
    """`kv_cache_usage_perc` per replica."""

    name = "hpa-kv-cache"
    title = "HPA on KV-cache use"

    def _value(self, variant: str) -> float:
        return sum(item.kv_cache for item in self.cluster.ready(variant))

    def target(self) -> str:
        return f"{self.scenario.hpa.kv_target:g}"
