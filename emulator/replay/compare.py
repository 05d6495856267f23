"""Comparison of policies: each is replayed on the same traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from emulator.replay import POLICIES, scoring
from emulator.replay.choices import names
from emulator.replay.choices.settings import Sweep
from emulator.replay.jobs import pool
from emulator.replay.jobs.tasks import tasks
from emulator.replay.replicas import planner
from emulator.replay.results import Comparison
from emulator.replay.running import Run
from emulator.replay.scenario import OfferedTraffic, Scenario

ReportProgress = Callable[[str, float], None]
"""Receives the name of a policy that is being replayed and the completed share of all work, 0 to 1."""


def compare(
    scenario: Scenario,
    traffic: Mapping[str, OfferedTraffic],
    policies: Sequence[str] = POLICIES,
    *,
    sweeps: Sequence[Sweep] = (),
    jobs: int | None = 1,
    out: Path | None = None,
    progress: ReportProgress = lambda _name, _share: None,
) -> Comparison:
    """Replay the traffic under each policy.

    Args:
        scenario: Models, variants, GPUs and HPA settings.
        traffic: Traffic by the model's name.
        policies: Names of policies, sweeps and groups, see `choices.names`, in the order of the results.
        sweeps: Settings of the adapter to vary, all combinations.
        jobs: Processes; None for as many as pay.
        out: Folder that keeps finished policies, and has those of an earlier, interrupted comparison.
        progress: Receives the name of the current policy and the completed share of all work.

    """
    traces = {model: item.trace for model, item in traffic.items()}
    steps = {model: item.steps for model, item in traffic.items()}
    given = Run(scenario=scenario, traffic=traces, steps=steps)
    choices = names.choices(scenario, traces, policies, sweeps)
    results = pool.run_all(given, tasks(choices), jobs=jobs, out=out, report=progress)
    return Comparison(
        scenario=scenario.name,
        trace=", ".join(dict.fromkeys(trace.name for trace in traces.values())),
        duration_seconds=scoring.duration(traces),
        requests=sum(len(trace) for trace in traces.values()),
        warm_up_seconds=scenario.warm_up,
        results=tuple(results[choice.name] for choice in choices),
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
    for model in scenario.models:
        if model.clients is not None:
            facts[f"clients of {model.model}"] = (
                f"give up after {model.clients.timeout:g} s without a token,"
                f" {model.clients.retries} retries {model.clients.backoff:g} s later"
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
