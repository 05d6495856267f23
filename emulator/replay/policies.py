"""Scaling policies: the interface, HPAs on metrics of pods, a static fleet and a fixed schedule.

A policy provides the metric that an HPA reads, or scales by itself. It sees the replicas' metrics only, at
the times at which it would scrape them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emulator.hpa import HorizontalPodAutoscaler
from emulator.hpa_rules import ScalingRules
from emulator.replay import THRESHOLDS
from emulator.replay.cluster import ReplayCluster
from emulator.replay.replicas.specs import VariantSpec
from emulator.replay.scenario import Hpa, Scenario


@dataclass(frozen=True, slots=True)
class Timer:
    """A periodic action.

    Attributes:
        period: Seconds between two calls; infinite for a single one.
        phase: Time of the first call, seconds since the beginning.
        action: Function to call.

    """

    period: float
    phase: float
    action: Callable[[], None]


class ScalingPolicy(ABC):
    """Interface of a policy.

    Attributes:
        name: Name on the command line and in JSON.
        title: Description in a few words.
        notes: Remarks for the reader of the results, one sentence each.

    """

    name = ""
    title = ""
    notes: tuple[str, ...] = ()

    def __init__(self, cluster: ReplayCluster) -> None:
        self.cluster = cluster
        self.scenario: Scenario = cluster.scenario

    @abstractmethod
    def timers(self) -> Sequence[Timer]:
        """Actions of the policy, with their times."""

    def items(self, variant: str) -> list[str] | None:
        """Metric values that the variant's HPA reads now; None for a policy without HPAs."""
        del variant
        return None

    def hpa(self) -> Hpa:
        """Settings of the policy's HPAs."""
        return self.scenario.hpa

    def target(self) -> str:
        """AverageValue target of the HPA's metric."""
        return "1"

    def scale_up(self) -> ScalingRules | None:
        """Limits of the HPA's pace upwards; None for Kubernetes' own."""
        return None

    def autoscaler(self, variant: VariantSpec) -> HorizontalPodAutoscaler:
        """The HPA of a variant, from `hpa`, `target` and `scale_up`."""
        settings = self.hpa()
        return HorizontalPodAutoscaler(
            target=self.target(),
            min_replicas=variant.min_replicas,
            max_replicas=variant.max_replicas,
            stabilization_down_seconds=settings.scale_down_stabilization,
            tolerance_up=settings.tolerance,
            tolerance_down=settings.tolerance,
            scale_up=self.scale_up(),
        )

    def desired(self, variant: str) -> float:
        """Replicas that the policy wants, for the curves; NaN where it has no value."""
        del variant
        return math.nan

    def close(self) -> None:  # noqa: B027 - most policies hold none
        """Release resources."""


class Static(ScalingPolicy):
    """A fleet of constant size."""

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


class Scheduled(ScalingPolicy):
    """A fixed schedule of replicas, made with knowledge of the traffic."""

    name = "clairvoyant"
    title = "clairvoyant"

    def __init__(
        self, cluster: ReplayCluster, schedule: dict[str, list[tuple[float, int]]]
    ) -> None:
        super().__init__(cluster)
        self._schedule = schedule
        self._replicas = {name: cluster.variants[name].replicas for name in schedule}

    def timers(self) -> Sequence[Timer]:
        def at(name: str, replicas: int) -> Callable[[], None]:
            return lambda: self._set(name, replicas)

        return [
            Timer(math.inf, seconds, at(name, replicas))
            for name, entries in self._schedule.items()
            for seconds, replicas in entries
        ]

    def _set(self, name: str, replicas: int) -> None:
        self._replicas[name] = replicas
        self.cluster.scale(name, replicas)

    def desired(self, variant: str) -> float:
        return float(self._replicas[variant])


class _Gauge(ScalingPolicy):
    """An HPA on the sum of one of vLLM's gauges over the pods, as of the last scrape."""

    def __init__(self, cluster: ReplayCluster) -> None:
        super().__init__(cluster)
        self._scraped: dict[str, list[str] | None] = dict.fromkeys(cluster.variants)

    def timers(self) -> Sequence[Timer]:
        return [Timer(self.scenario.loop.scrape_interval, 2.0, self._scrape)]

    @abstractmethod
    def _value(self, variant: str) -> float:
        """Sum over the variant's ready replicas."""

    def _scrape(self) -> None:
        for name in self.cluster.variants:
            ready = self.cluster.fleet.ready(name) > 0
            self._scraped[name] = [f"{self._value(name):.3f}"] if ready else None

    def items(self, variant: str) -> list[str]:
        return self._scraped[variant] or []


class Queue(_Gauge):
    """An HPA on `num_requests_waiting` per replica, as most guides suggest."""

    name = "hpa-queue"
    title = "HPA on queue length"

    def _value(self, variant: str) -> float:
        return float(sum(item.waiting for item in self.cluster.ready(variant)))

    def target(self) -> str:
        return f"{self.scenario.hpa.queue_target:g}"


class KvCache(_Gauge):
    """An HPA on `kv_cache_usage_perc` per replica."""

    name = "hpa-kv-cache"
    title = "HPA on KV-cache use"

    def _value(self, variant: str) -> float:
        return sum(item.kv_cache for item in self.cluster.ready(variant))

    def target(self) -> str:
        return f"{self.scenario.hpa.kv_target:g}"


class Threshold(_Gauge):
    """An HPA on one metric per ready pod, with a target of its own; see `THRESHOLDS`."""

    WINDOW = 60.0

    def __init__(self, cluster: ReplayCluster, *, metric: str, threshold: float) -> None:
        super().__init__(cluster)
        self.name = f"{metric}@{threshold:g}"
        self.title = f"HPA on {THRESHOLDS[metric]}, {threshold:g} per pod"
        self._metric = metric
        self._threshold = threshold
        self._offered: dict[str, list[int]] = {item.model: [] for item in self.scenario.models}

    def _scrape(self) -> None:
        scrapes = max(round(self.WINDOW / self.scenario.loop.scrape_interval), 1)
        for model, offered in self._offered.items():
            offered.append(self.cluster.fleet.offered(model))
            del offered[: -scrapes - 1]
        super()._scrape()

    def _value(self, variant: str) -> float:
        ready = self.cluster.ready(variant)
        match self._metric:
            case "in-flight":
                return float(sum(item.running + item.waiting for item in ready))
            case "queue":
                return float(sum(item.waiting for item in ready))
            case "kv":
                return sum(item.kv_cache for item in ready)
            case _:
                return self._rate(variant)

    def _rate(self, variant: str) -> float:
        """Requests per second of the last minute; variants of a model share them by their ready pods."""
        model = self.cluster.variants[variant].model
        offered = self._offered[model]
        if len(offered) < 2:
            return 0.0
        span = (len(offered) - 1) * self.scenario.loop.scrape_interval
        of_model = [n for n, item in self.cluster.variants.items() if item.model == model]
        pods = sum(self.cluster.fleet.ready(name) for name in of_model)
        share = self.cluster.fleet.ready(variant) / pods if pods else 0.0
        return share * (offered[-1] - offered[0]) / span

    def target(self) -> str:
        return f"{self._threshold:f}".rstrip("0").rstrip(".")
