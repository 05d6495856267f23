"""llm-d's two latency-minded laws on KEDA, as its guides give them: slo-aware and token-aware.

slo-aware: s is the larger of P90 TTFT and P90 ITL, each over a minute and divided by its SLO target, at
most 2, averaged over 45 s; c is ready / n where some of n replicas are not ready, else 1. Above 0.55 the
metric is n + ceil(n (s c / 0.55 - 1)), below 0.40 it is n - floor(n (1 - s / 0.40)), between them n. The
HPA goes up by the larger of 100 % and 4 pods a minute after 30 s, and down by a pod every two minutes after
180 s.

token-aware: the larger of prompt tokens in flight / V / threshold and the KV use of all pods / 0.8, each
rounded up; V is a replica's prefill speed, the tokens of a full step over the TTFT of such a prompt alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import numpy as np

from analyzer.step_times import StepTimes
from emulator.hpa import HorizontalPodAutoscaler
from emulator.hpa_rules import HPAScalingPolicy, ScalingRules
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.replay.replicas import planner
from emulator.replay.replicas.specs import VariantSpec

UP, DOWN = 0.55, 0.40
"""Published thresholds of the slo-aware law."""
HIGHEST_RATIO = 2.0
QUANTILE = 0.9
LATENCY_SECONDS, AVERAGE_SECONDS, SCRAPE_SECONDS = 60.0, 45.0, 15.0
KV_TARGET = 0.8
DEFAULT_SECONDS = 2.0
"""Seconds of prefill work per replica from which token-aware adds one, where no threshold is given."""


def slo_ratio(
    ttft_ms: Sequence[float], itl_ms: Sequence[float], *, ttft_target: float, itl_target: float
) -> float | None:
    """The larger P90 over its target, at most 2; None without a latency."""
    ratios = [
        float(np.percentile(values, 100 * QUANTILE)) / target
        for values, target in ((ttft_ms, ttft_target), (itl_ms, itl_target))
        if len(values)
    ]
    return min(max(ratios), HIGHEST_RATIO) if ratios else None


def slo_aware(
    replicas: int, ready: int, ratio: float, *, up: float = UP, down: float = DOWN
) -> int:
    """Value of the slo-aware metric."""
    share = ready / replicas if 0 < ready < replicas else 1.0
    if ratio > up:
        return replicas + math.ceil(replicas * (ratio * share / up - 1))
    if ratio < down:
        return replicas - math.floor(replicas * (1 - ratio / down))
    return replicas


def token_aware(tokens: float, kv_usage: float, *, tokens_per_second: float, seconds: float) -> int:
    """Value of the token-aware metric; `kv_usage` is the sum over pods."""
    return max(math.ceil(tokens / tokens_per_second / seconds), math.ceil(kv_usage / KV_TARGET))


class _Metric(ScalingPolicy, ABC):
    """An HPA that follows a number of replicas, computed at each scrape."""

    def __init__(self, cluster: ReplayCluster) -> None:
        super().__init__(cluster)
        self._value: dict[str, int] = {}

    def timers(self) -> Sequence[Timer]:
        return [Timer(SCRAPE_SECONDS, 2.0, self._scrape)]

    @abstractmethod
    def _scrape(self) -> None:
        """Compute the values of all variants."""

    def items(self, variant: str) -> list[str]:
        return [str(max(self._value[variant], 0))] if variant in self._value else []

    def desired(self, variant: str) -> float:
        return float(self._value.get(variant, math.nan))


class SloAware(_Metric):
    """The slo-aware law; the lower threshold moves with the upper one."""

    def __init__(self, cluster: ReplayCluster, *, up: float = UP) -> None:
        super().__init__(cluster)
        self._up, self._down = up, up * DOWN / UP
        self.name = "slo-aware" if up == UP else f"slo-aware@{up:g}"
        self.title = f"llm-d slo-aware, {self._down:.2g} to {up:g}"
        targets = {model.model: model.slo for model in self.scenario.models}
        self._targets = {name: targets[item.model] for name, item in cluster.variants.items()}
        cluster.fleet.keep_latencies()
        scrapes = round(LATENCY_SECONDS / SCRAPE_SECONDS)
        self._latencies: dict[str, deque[tuple[list[float], list[float]]]] = {
            name: deque(maxlen=scrapes) for name in cluster.variants
        }
        averaged = round(AVERAGE_SECONDS / SCRAPE_SECONDS)
        self._ratios: dict[str, deque[float | None]] = {
            name: deque(maxlen=averaged) for name in cluster.variants
        }

    def _scrape(self) -> None:
        for name, slo in self._targets.items():
            window = self._latencies[name]
            window.append(self.cluster.fleet.take_latencies(name))
            ratio = slo_ratio(
                [value for ttfts, _ in window for value in ttfts],
                [value for _, itls in window for value in itls],
                ttft_target=slo.ttft,
                itl_target=slo.itl,
            )
            self._ratios[name].append(ratio)
            known = [item for item in self._ratios[name] if item is not None]
            self._value.pop(name, None)
            if known:
                self._value[name] = slo_aware(
                    self.cluster.spec_replicas[name],
                    self.cluster.fleet.ready(name),
                    sum(known) / len(known),
                    up=self._up,
                    down=self._down,
                )

    def autoscaler(self, variant: VariantSpec) -> HorizontalPodAutoscaler:
        """The HPA of the guide."""
        return HorizontalPodAutoscaler(
            min_replicas=variant.min_replicas,
            max_replicas=variant.max_replicas,
            stabilization_up_seconds=30.0,
            stabilization_down_seconds=180.0,
            tolerance_up=self.scenario.hpa.tolerance,
            tolerance_down=self.scenario.hpa.tolerance,
            scale_up=ScalingRules(
                policies=(
                    HPAScalingPolicy(type="Percent", value=100, period_seconds=60.0),
                    HPAScalingPolicy(type="Pods", value=4, period_seconds=60.0),
                )
            ),
            scale_down=ScalingRules(
                policies=(HPAScalingPolicy(type="Pods", value=1, period_seconds=120.0),)
            ),
        )


class TokenAware(_Metric):
    """The token-aware rule, with the HPA settings of the scenario."""

    def __init__(self, cluster: ReplayCluster, *, seconds: float = DEFAULT_SECONDS) -> None:
        super().__init__(cluster)
        self._seconds = seconds
        self.name = f"token-aware@{seconds:g}"
        self.title = f"llm-d token-aware, {seconds:g} s of prefill"
        self._speeds = {
            name: prefill_speed(variant, self._mean_input(variant))
            for name, variant in cluster.variants.items()
        }

    def _mean_input(self, variant: VariantSpec) -> float:
        return max(float(np.mean(self.cluster.traffic[variant.model].input_tokens)), 1.0)

    def _scrape(self) -> None:
        for name in self.cluster.variants:
            self._value[name] = token_aware(
                self.cluster.fleet.prompt_tokens(name) + self.cluster.queued_tokens_share(name),
                sum(item.kv_cache for item in self.cluster.ready(name)),
                tokens_per_second=self._speeds[name],
                seconds=self._seconds,
            )


def prefill_speed(variant: VariantSpec, mean_input: float) -> float:
    """Prompt tokens per second of a replica with nothing else to do, from its engine's own step times.

    Args:
        variant: Variant with its engine.
        mean_input: Prompt tokens of the step where the engine has no budget of tokens.

    """
    truth = planner.truth_of(variant)
    latency, limits = truth.latency, truth.limits
    if isinstance(latency, StepTimes):
        tokens = float(limits.max_num_batched_tokens if limits is not None else mean_input)
        ttft_ms = latency.base_ms + latency.per_request_ms + latency.per_prefill_token_ms * tokens
    else:
        tokens = mean_input
        ttft_ms = latency.gamma_ms + latency.delta_ms * tokens
    return 1000 * tokens / max(ttft_ms, 1e-3)
