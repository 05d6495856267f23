"""Synthetic results of replays, for tests of what shows them: a fluid queue, and policies that lag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emulator.replay.results import ClassResult, Comparison, Curves, FloatArray, PolicyResult

REPLICA_RPM = 120.0
START_UP_SECONDS = 60.0
CENTS_PER_HOUR = 250.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A policy that sizes for the load of `lag_seconds` ago, times some headroom."""

    policy: str
    title: str
    lag_seconds: float
    headroom: float
    hold_seconds: float
    fixed: int | None = None


RULES = (
    Rule(
        policy="ours",
        title="This adapter, mean SLO",
        lag_seconds=-40,
        headroom=1.12,
        hold_seconds=60,
    ),
    Rule(
        policy="ours-p95",
        title="This adapter, p95 SLO, anticipating",
        lag_seconds=-75,
        headroom=1.2,
        hold_seconds=120,
    ),
    Rule(
        policy="reference",
        title="Reference rule, 60 s interval",
        lag_seconds=120,
        headroom=1.05,
        hold_seconds=30,
    ),
    Rule(
        policy="hpa-queue",
        title="HPA on queue length",
        lag_seconds=90,
        headroom=1.35,
        hold_seconds=300,
    ),
    Rule(
        policy="hpa-kv",
        title="HPA on KV-cache use",
        lag_seconds=75,
        headroom=1.5,
        hold_seconds=300,
    ),
    Rule(
        policy="static",
        title="Static fleet",
        lag_seconds=0,
        headroom=1,
        hold_seconds=0,
        fixed=20,
    ),
    Rule(
        policy="static-small",
        title="Static fleet of the mean",
        lag_seconds=0,
        headroom=1,
        hold_seconds=0,
        fixed=11,
    ),
    Rule(
        policy="clairvoyant",
        title="Clairvoyant optimum",
        lag_seconds=-100,
        headroom=1.12,
        hold_seconds=180,
    ),
)
CLASSES = (("premium", 500.0, 24.0), ("standard", 2000.0, 40.0), ("batch", 20_000.0, 90.0))


def comparison(
    *,
    rules: Sequence[Rule] = RULES,
    variants: Sequence[str] = ("vllm-a100",),
    classes: int = 1,
    duration_seconds: float = 3600.0,
    sample_seconds: float = 5.0,
    trace: str = "step-3x",
) -> Comparison:
    """An hour with a threefold step up and back, under each rule."""
    seconds = np.arange(0.0, duration_seconds + 1e-9, sample_seconds)
    load = _load(seconds, duration_seconds)
    return Comparison(
        scenario="emulated",
        trace=trace,
        duration_seconds=duration_seconds,
        requests=int(load.sum() * sample_seconds / 60),
        warm_up_seconds=duration_seconds / 20,
        results=tuple(_policy_result(rule, seconds, load, variants, classes) for rule in rules),
        facts={
            "accelerator": f"A100, {CENTS_PER_HOUR:g} cents/h",
            "start-up": f"{START_UP_SECONDS:g} s",
            "seed": "1",
        },
    )


def without_latencies(source: Comparison) -> Comparison:
    """The same without any served request or desired value."""
    return replace(source, results=tuple(_mute(item) for item in source.results))


def _mute(result: PolicyResult) -> PolicyResult:
    curves = {
        name: replace(
            item,
            desired=np.full_like(item.seconds, np.nan),
            ttft_p95_ms=np.full_like(item.seconds, np.nan),
            itl_p95_ms=np.full_like(item.seconds, np.nan),
        )
        for name, item in result.curves.items()
    }
    classes = tuple(
        replace(item, ttft_mean_ms=math.nan, ttft_p95_ms=math.nan, itl_mean_ms=math.nan,
                itl_p95_ms=math.nan, within=0.0)
        for item in result.classes
    )  # fmt: skip
    steps = (math.nan, *result.recovery_seconds)
    return replace(result, curves=curves, classes=classes, recovery_seconds=steps)


def _load(seconds: FloatArray, duration: float) -> FloatArray:
    noise = np.random.default_rng(1).normal(0.0, 1.0, len(seconds))
    knots = np.array([0.0, 0.25, 0.28, 0.65, 0.7, 1.0]) * duration
    level = np.interp(seconds, knots, [600.0, 600.0, 1800.0, 1800.0, 500.0, 500.0])
    return np.asarray(np.maximum(0.0, level + noise * np.sqrt(level) * 2), dtype=np.float64)


def _policy_result(
    rule: Rule, seconds: FloatArray, load: FloatArray, variants: Sequence[str], classes: int
) -> PolicyResult:
    share = load / len(variants)
    curves = {
        name: _curves(rule, seconds, share * (1 + 0.1 * i)) for i, name in enumerate(variants)
    }
    every = list(curves.values())
    cost = sum(float(item.cost_cents[-1]) for item in every)
    changes = np.concatenate([np.diff(item.desired[np.isfinite(item.desired)]) for item in every])
    late = max(rule.lag_seconds, 0.0) + (START_UP_SECONDS if rule.fixed is None else 0.0)
    return PolicyResult(
        policy=rule.policy,
        title=rule.title,
        classes=tuple(_class(every[0], *item, share=len(variants)) for item in CLASSES[:classes]),
        gpu_hours=cost / CENTS_PER_HOUR,
        cost_cents=cost,
        scale_ups=int((changes > 0).sum()),
        scale_downs=int((changes < 0).sum()),
        recovery_seconds=(math.nan if rule.fixed == 11 else late,),
        queue_peak=int(max(item.waiting.max() for item in every)),
        curves=curves,
        notes=("Never scales.",) if rule.fixed else (),
    )


def _curves(rule: Rule, seconds: FloatArray, load: FloatArray) -> Curves:
    step = float(seconds[1] - seconds[0])
    desired = _desired(rule, seconds, load)
    late = round(START_UP_SECONDS / step) if rule.fixed is None else 0
    before = np.concatenate([np.full(late, desired[0]), desired[: len(desired) - late]])
    ready = np.minimum(before, desired)
    created = np.maximum(ready, desired)
    waiting = np.zeros_like(load)
    for i in range(1, len(load)):
        excess = (load[i] - ready[i] * REPLICA_RPM) * step / 60
        waiting[i] = max(0.0, waiting[i - 1] + excess)
    busy = np.minimum(1.0, load / np.maximum(ready * REPLICA_RPM, 1.0) + (waiting > 0))
    drain = waiting / np.maximum(ready * REPLICA_RPM, 1.0) * 60_000
    return Curves(
        model="llama-3-8b",
        seconds=seconds,
        offered_rpm=load,
        ready=ready,
        created=created,
        desired=np.where(seconds < 30, np.nan, desired),
        waiting=np.round(waiting),
        ttft_p95_ms=np.where(load > 0, 80 + 250 * busy**6 + 0.5 * drain, np.nan),
        itl_p95_ms=np.where(load > 0, 9 + 14 * busy, np.nan),
        cost_cents=np.cumsum(created) * step / 3600 * CENTS_PER_HOUR,
    )


def _desired(rule: Rule, seconds: FloatArray, load: FloatArray) -> FloatArray:
    """Desired replicas: the most of the last `hold_seconds`, like a stabilization window."""
    if rule.fixed is not None:
        return np.full_like(load, rule.fixed)
    step = float(seconds[1] - seconds[0])
    width = max(1, round(60 / step))
    smooth = np.convolve(np.pad(load, width // 2, mode="edge"), np.ones(width) / width, "same")
    smooth = smooth[width // 2 :][: len(load)]
    lagged = np.interp(seconds - rule.lag_seconds, seconds, smooth)
    desired = np.ceil(lagged * rule.headroom / REPLICA_RPM)
    held = [
        desired[max(0, i - round(rule.hold_seconds / step)) : i + 1].max()
        for i in range(len(desired))
    ]
    return np.asarray(held, dtype=np.float64)


def _class(
    curves: Curves, name: str, ttft_target: float, itl_target: float, *, share: int
) -> ClassResult:
    ttft, itl, weight = curves.ttft_p95_ms, curves.itl_p95_ms, curves.offered_rpm
    total = weight.sum()
    late = (ttft > ttft_target) | (itl > itl_target)
    return ClassResult(
        service_class=name,
        model="llama-3-8b",
        ttft_target_ms=ttft_target,
        itl_target_ms=itl_target,
        requests=int(total * (curves.seconds[1] - curves.seconds[0]) / 60 * share),
        within=1 - float(weight[late].sum() / total),
        ttft_within=1 - float(weight[ttft > ttft_target].sum() / total),
        itl_within=1 - float(weight[itl > itl_target].sum() / total),
        ttft_mean_ms=float(np.nanmean(ttft)) / 2,
        ttft_p95_ms=float(np.nanpercentile(ttft, 95)),
        itl_mean_ms=float(np.nanmean(itl)) * 0.9,
        itl_p95_ms=float(np.nanpercentile(itl, 95)),
        unfinished=0,
    )
