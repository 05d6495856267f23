"""The suite of `decision_quality.py`: traffic that nothing was tuned on, each replayed under every policy.

A case is one scenario with one trace, as `variant-adapter replay` has them. Public traces are scaled to a
mean of `MEAN_REPLICAS` replicas, the same for all; no setting of any policy depends on the trace.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapter import logs
from emulator import trace_files, trace_folder, traces
from emulator.replay import clairvoyant, compare, scenario
from emulator.replay.choices import settings
from emulator.replay.results import Comparison, PolicyResult
from emulator.replay.scenario import OfferedTraffic, Scenario
from emulator.trace_selection import Selection
from emulator.traces import Trace

ROOT = Path(__file__).parents[2]
PROFILE_SCENARIO = ROOT / "manifests/samples/replay/profile.yaml"
SEEDS = (101, 102)
"""Held-out seeds of generated traffic: no parameter was tuned on them."""
RAMP_SEEDS = (7, 8, 9, 10, 11)
WARM_UP_SECONDS = 300.0
STARTUPS = (60, 180, 600)
MEAN_REPLICAS = 4.0
PERCENTILES = "adapter.percentile=0.9,0.95,0.99,0.995"
FRONTIER = ("ours", "rivals", "without-foresight", "clairvoyant")
QUICK_FRONTIER = ("ours", "in-flight", "rps", "kpa", "slo-aware@sweep", "clairvoyant")
TUNED = tuple(f"in-flight@{number}" for number in (16, 24, 32, 48))
"""In-flight rules of which the cheapest that keeps 99 % counts as the tuned one."""

H100: Mapping[str, Any] = {
    "kind": "vllm",
    "stepMs": {"base": 7, "perRequest": 0.05, "perPrefillToken": 0.04, "perContextToken": 4e-5},
    "maxNumSeqs": 256,
    "maxNumBatchedTokens": 8192,
    "kvTokens": 432_000,
}
"""Numbers like those of Llama-3.1-8B on an H100."""
QWEN_TP2: Mapping[str, Any] = {
    "kind": "vllm",
    "stepMs": {
        "base": 14.4,
        "perRequest": 0.058,
        "perPrefillToken": 0.05,
        "perContextToken": 4.8e-5,
    },
    "maxNumSeqs": 256,
    "maxNumBatchedTokens": 8192,
    "kvTokens": 302_000,
}
"""Qwen3-32B on two H100, as fitted to the rows of vLLM in tests/data/replica/measured.csv."""

CHAT = {
    "input": {"mean": 1000, "cv": 1.0, "max": 8000},
    "output": {"mean": 220, "cv": 0.7, "max": 2000},
}
SMALL = {
    "input": {"mean": 128, "cv": 0.8, "max": 2048},
    "output": {"mean": 178, "cv": 0.6, "max": 1024},
}
LONG = {
    "input": {"mean": 4000, "cv": 0.1, "max": 8000},
    "output": {"mean": 1000, "cv": 0.1, "max": 2000},
}
SUITE: Mapping[str, Mapping[str, Any]] = {
    "poisson": {"kind": "poisson", "duration_seconds": 1800, "rate_rpm": 300},
    "gamma": {"kind": "gamma", "cv": 2.5, "duration_seconds": 1800, "rate_rpm": 300},
    "ramp": {"kind": "ramp", "duration_seconds": 2400, "from_rpm": 100, "to_rpm": 900},
    "diurnal": {
        "kind": "diurnal", "duration_seconds": 3600, "mean_rpm": 600, "amplitude": 0.7,
        "period_seconds": 3600, "noise": 0.1,
    },
    "mmpp": {"kind": "mmpp", "duration_seconds": 3600, "states": [[300, 200], [200, 500]]},
    "step-3x": {"kind": "step", "levels": [[900, 200], [900, 600], [900, 200]]},
    "flash-crowd": {
        "kind": "flash-crowd", "duration_seconds": 2400, "base_rpm": 200, "peak_rpm": 800,
        "start_seconds": 900, "rise_seconds": 60, "hold_seconds": 300, "fall_seconds": 120,
    },
}  # fmt: skip
FLASH_START = 900.0
STEADY = ("poisson", "gamma")
STEADY_RATES = (255, 270, 285, 300, 315)
"""Requests per minute of the steady cases: one replica's worth in five parts, so that what whole replicas
carry too much, or just not, averages out."""
STATIONARY_RATES: Mapping[int, tuple[int, ...]] = {
    2: (1225, 1250, 1275, 1300, 1325),
    3: (1900, 1940, 1980, 2020, 2060),
    4: (2600, 2650, 2700, 2750, 2800),
    5: (3325, 3375, 3425, 3475, 3525),
}
"""The same of the stationary cases by replicas, in steps of about 2 %, around the largest rates at which the
adapter holds so many; a part of the suite has those of `QUICK_REPLICAS`."""
QUICK_REPLICAS = 4
LLM_D_RAMP = [[330, 120], [360, 240], [360, 360], [360, 480], [360, 600], [360, 240], [300, 60]]
"""Seconds and requests per minute of llm-d's published experiment: 2-4-6-8-10-4-1 a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One replay of the suite.

    Attributes:
        group: Part of the suite: public, stationary, drift, wrong, none, suite or llm-d.
        name: Name of the case, unique in the suite.
        scenario: Scenario.
        traffic: Traffic by model.
        policies: Policies as `--policies` has them.
        sweep: Values of a setting of the adapter, as `--sweep` has them; empty for none.

    """

    group: str
    name: str
    scenario: Scenario
    traffic: Mapping[str, OfferedTraffic]
    policies: tuple[str, ...]
    sweep: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A case with its results."""

    case: Case
    comparison: Comparison

    def of(self, policy: str) -> PolicyResult:
        """Result of one policy."""
        return next(item for item in self.comparison.results if item.policy == policy)


def model_on(
    engine: Mapping[str, Any], *, slo: Mapping[str, float], startup: float, **variant: Any
) -> Scenario:
    """One model on vLLM engines, planned with what a benchmark of them gives."""
    document = {
        "name": "one model on vLLM engines",
        "accelerators": {"H100": {"cost": 250}},
        "models": [{"model": "m", "serviceClass": "Premium", "slo": dict(slo)}],
        "variants": [
            {
                "name": "chat", "model": "m", "accelerator": "H100", "engine": dict(engine),
                "profile": "fit", "startup": startup, "replicas": 2, "maxReplicas": 60,
            } | variant
        ],
        "warmUp": WARM_UP_SECONDS,
    }  # fmt: skip
    return Scenario.model_validate(document)


def cases(folder: Path | None, *, quick: bool) -> list[Case]:
    """The suite: all of it, or a part that takes about half an hour on two cores."""
    return [
        *public(folder, quick=quick),
        *stationary(quick=quick),
        *wrong_models(quick=quick),
        *generated(quick=quick),
        *llm_d(),
    ]


def public(folder: Path | None, *, quick: bool) -> list[Case]:
    """Every trace of the folder with each start-up time."""
    cases = []
    for name, path in trace_folder.entries(folder).items() if folder else ():
        for startup in STARTUPS:
            # A part that a replica starts in four times at least says something about its start-up.
            window = Selection(end=max(1500.0, 4.0 * startup) if quick else 3600.0)
            trace = _servable(trace_files.read(path, selection=window))
            made = model_on(H100, slo={"ttft": _ttft_target(trace), "itl": 50}, startup=startup)
            part = _scaled(made, trace, 3.0 if quick else MEAN_REPLICAS)
            policies = QUICK_FRONTIER if quick else FRONTIER
            sized = _begin_with(made, part)
            cases.append(
                _case("public", f"{name}, start-up {startup} s", sized, part, policies, PERCENTILES)
            )
    return cases


def stationary(*, quick: bool) -> list[Case]:
    """Constant Poisson rates, up to those at which one replica more is needed; targets for p99."""
    cases = []
    numbers = (QUICK_REPLICAS,) if quick else tuple(STATIONARY_RATES)
    for rate in itertools.chain.from_iterable(STATIONARY_RATES[number] for number in numbers):
        for seed in SEEDS[:1] if quick else SEEDS:
            made = model_on(H100, slo={"ttft": 1000, "itl": 40}, startup=60)
            spec = {
                "kind": "poisson",
                "duration_seconds": 1500,
                "rate_rpm": rate,
                "tokens": CHAT,
                "seed": seed,
            }
            trace = traces.generate(spec)
            cases.append(
                _case(
                    "stationary",
                    f"{rate} a minute, seed {seed}",
                    _begin_with(made, trace),
                    trace,
                    ("ours", "clairvoyant"),
                )
            )
    return cases


def wrong_models(*, quick: bool) -> list[Case]:
    """Lengths that drift, profiles that are 30 % wrong, and no profile at all."""
    made = model_on(H100, slo={"ttft": 1000, "itl": 40}, startup=60)
    duration = 2400 if quick else 3600
    spec = {"kind": "diurnal", "duration_seconds": duration, "mean_rpm": 2500, "amplitude": 0.4,
            "period_seconds": duration, "noise": 0.1, "tokens": CHAT, "seed": SEEDS[0]}  # fmt: skip
    trace = traces.generate(spec)
    sized = _begin_with(made, trace)
    cases = [
        _case(
            "drift",
            "input/output doubles from 10 to 30 min",
            sized,
            drifting(trace),
            ("ours", *TUNED),
        )
    ]
    for factor in (0.7,) if quick else (0.7, 1.3):
        steps = {key: factor * value for key, value in H100["stepMs"].items()}
        profile = {"stepParms": steps}
        cases.append(
            _case(
                "wrong",
                f"all parameters x {factor:g}",
                _planned_with(sized, profile),
                trace,
                ("ours", *TUNED),
            )
        )
    cases.append(_case("none", "no profile", _planned_with(sized, "none"), trace, ("ours", *TUNED)))
    return cases


def generated(*, quick: bool) -> list[Case]:
    """Generated traffic on the engine of a linear profile, planned with that profile."""
    made = scenario.read(PROFILE_SCENARIO).model_copy(update={"warm_up": WARM_UP_SECONDS})
    names = ("poisson", "mmpp", "step-3x", "flash-crowd") if quick else tuple(SUITE)
    policies = ("ours", "in-flight@5", "kpa@5", "clairvoyant")
    model = made.models[0].model
    cases = []
    for name in names:
        rates = STEADY_RATES if name in STEADY else (None,)
        for seed, rate in itertools.product(SEEDS[:1] if quick else SEEDS, rates):
            spec = {**SUITE[name], "seed": seed, "tokens": SMALL, "name": f"{name}, seed {seed}"}
            full = name if rate is None else f"{name} at {rate} a minute"
            spec |= {} if rate is None else {"rate_rpm": rate}
            given = OfferedTraffic(trace=traces.generate(spec), steps=tuple(scenario.steps(spec)))
            cases.append(
                Case(
                    group="suite",
                    name=f"{full} {seed}",
                    scenario=made,
                    traffic={model: given},
                    policies=policies,
                )
            )
    return cases


def llm_d() -> list[Case]:
    """llm-d's published ramp: 4000 and 1000 tokens, 3 to 8 replicas, start-up 117 s."""
    cases = []
    for seed in RAMP_SEEDS:
        made = model_on(
            QWEN_TP2, slo={"ttft": 3000, "itl": 100}, startup=117, devices=2, replicas=3, minReplicas=3,
            maxReplicas=8,
        )  # fmt: skip
        spec = {
            "kind": "step",
            "levels": LLM_D_RAMP,
            "arrivals": "poisson",
            "seed": seed,
            "tokens": LONG,
        }
        policies = ("ours", "slo-aware", "in-flight@40")
        unwarmed = made.model_copy(update={"warm_up": 0.0})
        cases.append(
            _case("llm-d", f"ramp, seed {seed}", unwarmed, traces.generate(spec), policies)
        )
    return cases


def measure(todo: Sequence[Case], *, jobs: int | None, out: Path | None) -> list[Done]:
    """Replay the cases, one after the other; what `out` keeps is not replayed again."""
    logs.configure("text", quiet=True)
    done = []
    for number, case in enumerate(todo, start=1):
        print(f"{number}/{len(todo)} {case.group}: {case.name}", file=sys.stderr, flush=True)
        sweeps = (settings.parse(case.sweep),) if case.sweep else ()
        comparison = compare.compare(
            case.scenario, case.traffic, case.policies, sweeps=sweeps, jobs=jobs, out=out
        )
        done.append(Done(case=case, comparison=comparison))
    return done


def drifting(trace: Trace) -> Trace:
    """The trace with an input/output ratio that doubles, by longer prompts and shorter answers."""
    root_two = math.sqrt(2.0)
    grown = root_two ** np.clip((trace.arrival_seconds - 600) / 1200, 0.0, 1.0)
    return replace(
        trace,
        input_tokens=np.maximum(np.rint(trace.input_tokens * grown), 1).astype(np.int64),
        output_tokens=np.maximum(np.rint(trace.output_tokens / grown), 1).astype(np.int64),
    )


def _servable(trace: Trace) -> Trace:
    """The trace without the requests that the KV cache cannot hold."""
    fits = trace.input_tokens + trace.output_tokens < H100["kvTokens"]
    return replace(
        trace,
        arrival_seconds=trace.arrival_seconds[fits],
        input_tokens=trace.input_tokens[fits],
        output_tokens=trace.output_tokens[fits],
    )


def _ttft_target(trace: Trace) -> float:
    """Target in ms that long prompts can meet: twice what the 99th percentile takes alone, 2 s at least."""
    steps = H100["stepMs"]
    alone = steps["base"] + steps["perPrefillToken"] * float(np.percentile(trace.input_tokens, 99))
    return max(2000.0, round(2 * alone, -2))


def _scaled(made: Scenario, trace: Trace, replicas: float) -> Trace:
    """The trace at a rate that this many replicas serve with mean latencies at the targets."""
    (capacity,) = clairvoyant.replica_capacity(made, {"m": trace}).values()
    if not math.isfinite(capacity):
        capacity = 1.0
    rate = len(trace) / max(trace.duration_seconds, 1.0)
    return Selection(scale=replicas * capacity / rate).of(trace)


def _begin_with(made: Scenario, trace: Trace) -> Scenario:
    """The scenario with as many replicas as the first five minutes need, for every policy."""
    (capacity,) = clairvoyant.replica_capacity(made, {"m": trace}).values()
    first = np.count_nonzero(trace.arrival_seconds < 300) / 300
    number = max(math.ceil(1.3 * first / capacity), 1) if math.isfinite(capacity) else 2
    variants = tuple(item.model_copy(update={"replicas": number}) for item in made.variants)
    return made.model_copy(update={"variants": variants})


def _planned_with(made: Scenario, profile: object) -> Scenario:
    document = made.model_dump(by_alias=True, exclude_none=True)
    document["variants"][0]["profile"] = profile
    return Scenario.model_validate(document)


def _case(  # noqa: PLR0917 - one line per case
    group: str, name: str, made: Scenario, trace: Trace, policies: tuple[str, ...], sweep: str = ""
) -> Case:
    traffic = {made.models[0].model: OfferedTraffic(trace=trace)}
    return Case(
        group=group, name=name, scenario=made, traffic=traffic, policies=policies, sweep=sweep
    )
