"""Comparison of policies: each is replayed on the same traffic, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from emulator.replay import POLICIES, clairvoyant, scoring
from emulator.replay import policies as scaling
from emulator.replay.adapter_policy import AdapterPolicy, Reference, settings_of
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import KvCache, Queue, ScalingPolicy, Threshold
from emulator.replay.replicas import planner
from emulator.replay.results import Comparison, PolicyResult
from emulator.replay.running import ReportTime, Run, run
from emulator.replay.scenario import OfferedTraffic, Scenario

PERCENTILE = 0.99
"""Percentile of the latencies that the SLO targets bound under the p99 policies."""

ReportProgress = Callable[[str, float], None]
"""Receives the name of the policy that is being replayed and the completed share of all work, 0 to 1."""


def _ours(
    name: str, title: str, settings: LoopSettings, percentile: float | None
) -> Callable[[ReplayCluster], ScalingPolicy]:
    return lambda cluster: AdapterPolicy(
        cluster, name=name, title=title, settings=settings, percentile=percentile
    )


def makers(scenario: Scenario) -> dict[str, Callable[[ReplayCluster], ScalingPolicy]]:
    """Constructors, by name, of the policies that need nothing but the scenario."""
    settings = settings_of(scenario)
    reactive = replace(settings, rates=RateSettings(anticipate=False))
    return {
        "ours": _ours("ours", "adapter, p99", settings, PERCENTILE),
        "ours-reactive": _ours("ours-reactive", "adapter, reactive", reactive, PERCENTILE),
        "ours-mean": _ours("ours-mean", "adapter, means", settings, None),
        "reference": Reference,
        "hpa-queue": Queue,
        "hpa-kv-cache": KvCache,
    }


def is_known(policy: str) -> bool:
    """Whether there is a policy of this name."""
    return policy in POLICIES or scaling.threshold(policy) is not None


def _at_threshold(metric: str, threshold: float) -> Callable[[ReplayCluster], ScalingPolicy]:
    return lambda cluster: Threshold(cluster, metric=metric, threshold=threshold)


def compare(
    scenario: Scenario,
    traffic: Mapping[str, OfferedTraffic],
    policies: Sequence[str] = POLICIES,
    *,
    progress: ReportProgress = lambda _name, _share: None,
) -> Comparison:
    """Replay the traffic under each policy.

    Args:
        scenario: Models, variants, GPUs and HPA settings.
        traffic: Traffic by the model's name.
        policies: Names out of `emulator.replay.POLICIES`, or of its `FORMS`, in the order of the results.
        progress: Receives the name of the current policy and the completed share of all work.

    """
    traces = {model: item.trace for model, item in traffic.items()}
    steps = {model: item.steps for model, item in traffic.items()}
    given = Run(scenario=scenario, traffic=traces, steps=steps)
    constructors = makers(scenario)
    for name in policies:
        if (found := scaling.threshold(name)) is not None:
            constructors[name] = _at_threshold(*found)
    searched = {"static", "clairvoyant"} & set(policies)
    total = sum(name in constructors for name in policies) + ("static" in searched)
    total += clairvoyant.SEARCH_STEPS if searched else 0
    done = 0

    def reporter(name: str) -> ReportTime:
        runs_before = done
        return lambda at: progress(name, (runs_before + at / given.seconds) / total)

    results: dict[str, PolicyResult] = {}
    for name in policies:
        if name in constructors:
            results[name] = run(given, constructors[name], reporter(name))
            done += 1
    if searched:
        start = done

        def search_reporter(index: int) -> ReportTime:
            nonlocal done
            done = start + index
            return reporter("clairvoyant")

        results["clairvoyant"], factor = clairvoyant.search(given, search_reporter)
        done = start + clairvoyant.SEARCH_STEPS
        if "static" in searched:
            results["static"] = run(given, clairvoyant.peak(given, factor), reporter("static"))
    return Comparison(
        scenario=scenario.name,
        trace=", ".join(dict.fromkeys(trace.name for trace in traces.values())),
        duration_seconds=scoring.duration(traces),
        requests=sum(len(trace) for trace in traces.values()),
        warm_up_seconds=scenario.warm_up,
        results=tuple(results[name] for name in policies if name in results),
        facts=_facts(scenario),
    )


def _facts(scenario: Scenario) -> dict[str, str]:
    """Properties of the scenario that belong beside its results, by their names."""
    facts = {}
    for variant in scenario.variants:
        engine = planner.engine_description(variant)
        spread = f" (sigma {variant.startup_time.sigma:g})" if variant.startup_time.sigma else ""
        facts[variant.name] = (
            f"{variant.accelerator} x {variant.devices}, {planner.description(variant)},"
            f" ready after {variant.startup:g} s{spread}"
            + (f"; served by {engine}" if engine else "")
        )
    facts["decisions"] = (
        f"every {scenario.loop.interval:g} s, metrics every {scenario.loop.scrape_interval:g} s, HPAs"
        f" every {scenario.hpa.sync_period:g} s"
    )
    facts["HPAs on vLLM's metrics"] = (
        f"{scenario.hpa.queue_target:g} waiting or {scenario.hpa.kv_target:.0%} of the KV cache per"
        f" replica, tolerance {scenario.hpa.tolerance:g}, down after"
        f" {scenario.hpa.scale_down_stabilization:g} s"
    )
    facts["routing"] = scenario.routing
    return facts
