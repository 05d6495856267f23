"""The matrix of faulty inputs: each input of a page by each fault, read from the pods or from Prometheus.

All cases run beside each other as variants of one control loop in virtual time: four pods with a steady load,
then the fault at one of them or at all. The load stays the same throughout, so that the target which is right
is the one from before the fault.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import aiohttp

from adapter.collector import exposition, promql
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import STARTED, PodMetrics
from adapter.controller.demand import RateSettings
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources import folder
from adapter.store import TargetStore
from emulator.demo import scenario
from optimizer.stabilization import StabilizationLimits
from tests.fakes.virtual_time import ManualClock

Origin = Literal["direct", "prometheus"]
Page = dict[str, float]
"""Values of one pod by name of its series."""

PODS, PER_SECOND, SECONDS = 4, 0.5, 10.0
BEFORE, DURING, AFTER = 12, 12, 6
"""Cycles of ten seconds before, during and after the fault."""

OUTPUT, ITL = 178.0, 0.02

INPUTS = {
    "finished": ("vllm:request_success_total",),
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "prompt tokens": ("vllm:request_prompt_tokens_sum", "vllm:request_prompt_tokens_count"),
    "output tokens": ("vllm:request_generation_tokens_sum", "vllm:request_generation_tokens_count"),
    "first tokens": ("vllm:time_to_first_token_seconds_sum", "vllm:time_to_first_token_seconds_count"),
    "token latencies": ("vllm:inter_token_latency_seconds_sum", "vllm:inter_token_latency_seconds_count"),
    "KV cache": ("vllm:kv_cache_usage_perc",),
}  # fmt: skip
"""Series by input."""

UNITS = {
    "prompt tokens": "vllm:request_prompt_tokens_sum",
    "output tokens": "vllm:request_generation_tokens_sum",
    "first tokens": "vllm:time_to_first_token_seconds_sum",
    "token latencies": "vllm:inter_token_latency_seconds_sum",
    "KV cache": "vllm:kv_cache_usage_perc",
}
"""The series of an input that has a unit, which may be a thousandth of the right one."""


def steady(seconds: float, *, began: float = 0.0) -> Page:
    """A pod after that time under its load."""
    done = PER_SECOND * (seconds - began)
    return {
        "vllm:num_requests_running": 2.0,
        "vllm:num_requests_waiting": 0.0,
        "vllm:request_success_total": done,
        "vllm:request_prompt_tokens_sum": 128 * done,
        "vllm:request_prompt_tokens_count": done,
        "vllm:request_generation_tokens_sum": OUTPUT * done,
        "vllm:request_generation_tokens_count": done,
        "vllm:time_to_first_token_seconds_sum": 0.05 * done,
        "vllm:time_to_first_token_seconds_count": done,
        "vllm:inter_token_latency_seconds_sum": (OUTPUT - 1) * ITL * done,
        "vllm:inter_token_latency_seconds_count": (OUTPUT - 1) * done,
        "vllm:generation_tokens_total": OUTPUT * done,
        "vllm:kv_cache_usage_perc": 0.2,
    }


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault.

    Attributes:
        fault: Its name.
        what: Input that it is of; empty for all of a page.
        pods: Number of pods that have it.
        page: The page of a pod that has it, by the time in seconds and the time at which the fault began;
            None where it does not answer.
        lasts: Whether it stays: a process that began anew does not come back.

    """

    fault: str
    what: str
    pods: int
    page: Callable[[float, float], Page | None]
    lasts: bool = False

    @property
    def name(self) -> str:
        """Name for tables."""
        where = (
            "one pod" if self.pods == 1 else "all pods" if self.pods == PODS else "half the pods"
        )
        return f"{self.fault}, {self.what or 'page'}, {where}"


def _with(names: tuple[str, ...], change: Callable[[float], float | None]) -> Callable[..., Page]:
    def page(at: float, _: float) -> Page:
        values = {}
        for name, value in steady(at).items():
            changed = change(value) if name in names else value
            if changed is not None:
                values[name] = changed
        return values

    return page


def _stale(names: tuple[str, ...]) -> Callable[..., Page]:
    def page(at: float, since: float) -> Page:
        return {**steady(at), **{name: steady(since)[name] for name in names}}

    return page


def _reset(names: tuple[str, ...]) -> Callable[..., Page]:
    def page(at: float, since: float) -> Page:
        fresh = steady(at, began=since)
        return {name: fresh[name] if name in names else value for name, value in steady(at).items()}

    return page


def _moved(names: tuple[str, ...], change: Callable[[float, float], float]) -> Callable[..., Page]:
    """Values changed by what they were when the fault began."""

    def page(at: float, since: float) -> Page:
        before = steady(since)
        return {
            name: change(value, before[name]) if name in names else value
            for name, value in steady(at).items()
        }

    return page


def _twice_started(at: float, _: float) -> Page:
    """Two processes in turn, with counters that do not fall."""
    return {**steady(at), "process_start_time_seconds": 9000.0 + 400.0 * (at // SECONDS % 2)}


_HUGE: tuple[Callable[[float], float], ...] = (lambda _: math.inf, lambda _: 1e308)
"""Values beyond what a measurement can be."""


_GAUGES = ("running", "waiting")
_JUMPS = {"jump": 60.0, "huge jump": 1e6}
"""Requests that a gauge has at once besides those that are there: what clients left behind, and nonsense."""


def counters_of(what: str) -> tuple[str, ...]:
    """Series of an input that only grow; none for a gauge."""
    return tuple(name for name in INPUTS[what] if name.endswith(("_total", "_sum", "_count")))


def _of_counters(pods: int) -> Iterator[Case]:
    """Faults of what only grows."""
    for what, names in INPUTS.items():
        counters = counters_of(what)
        for fault, page in {
            "half absent": _with(names[:1], lambda _: None),
            "jump": _moved(counters, lambda value, before: value + 40.0 * max(before, 100.0)),
            "fall": _moved(counters, lambda value, before: value - 0.3 * before),
            "runs ahead": _moved(counters, lambda value, before: before + 12.0 * (value - before)),
        }.items():
            if counters and (fault != "half absent" or len(names) > 1):
                yield Case(fault=fault, what=what, pods=pods, page=page)
    everything = tuple(name for what in INPUTS for name in counters_of(what))
    jump = _moved(everything, lambda value, before: value + 40.0 * max(before, 100.0))
    yield Case(fault="jump", what="all counters", pods=pods, page=jump, lasts=True)


def cases() -> Iterator[Case]:
    """All faults."""
    for pods in (1, PODS):
        yield from _of_counters(pods)
        yield Case(fault="two start times", what="", pods=pods, page=_twice_started)
        yield Case(
            fault="every second answer", what="", pods=pods,
            page=lambda at, _: None if at // SECONDS % 2 else steady(at),
        )  # fmt: skip
        for what in _GAUGES:
            for fault, more in _JUMPS.items():
                page = _with(INPUTS[what], partial(operator.add, more))
                yield Case(fault=fault, what=what, pods=pods, page=page)
        for what, names in INPUTS.items():
            unit = (UNITS[what],) if what in UNITS else ()
            for fault, page in {
                "absent": _with(names, lambda _: None),
                "NaN": _with(names, lambda _: math.nan),
                **(
                    {"1e308" if what in UNITS else "Inf": _with(names, _HUGE[what in UNITS])}
                    if pods == 1
                    else {}
                ),
                "negative": _with(names, lambda value: -value - 1.0),
                "stale": _stale(names),
                "reset": _reset(names),
                **({"wrong unit": _with(unit, lambda value: 1000.0 * value)} if unit else {}),
            }.items():
                lasts = fault == "reset"
                yield Case(fault=fault, what=what, pods=pods, page=page, lasts=lasts)
        everything = tuple(steady(0))
        yield Case(fault="restart", what="", pods=pods, page=_reset(everything), lasts=True)
        yield Case(fault="hung", what="", pods=pods, page=_stale(everything))
        yield Case(fault="no answer", what="", pods=pods, page=lambda *_: None)
        yield Case(
            fault="twice the pods behind one address", what="", pods=pods,
            page=lambda at, _: steady(at + 4000.0 * (at // SECONDS % 2)),
        )  # fmt: skip
    yield Case(fault="no answer", what="", pods=PODS // 2, page=lambda *_: None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the target of one case.

    Attributes:
        right: Target before the fault, which the load needs throughout.
        least: Smallest target during and after it; None where there was once none.
        most: Largest one.
        said: What the condition said last while the fault was there.
        targets: All targets from the last one before it on.

    """

    case: Case
    right: int | None
    least: int | None
    most: int | None
    said: str
    targets: tuple[int | None, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the target was the right one all the time."""
        return self.right is not None and self.least == self.right == self.most


def _read(page: Page, origin: Origin, endpoint: str, now: float) -> PodMetrics | None:
    """A page as one of the sources reads it; None where it is refused."""
    model = scenario.MODEL
    if origin == "direct":
        label = f'{{model_name="{model}"}}'
        lines = "".join(f"{name}{label} {value}\n" for name, value in page.items())
        try:
            return exposition.parse(lines, model, endpoint)
        except exposition.ScrapeError:
            return None
    labels = {
        "namespace": "n",
        "pod": endpoint,
        "instance": endpoint,
        "job": "j",
        "model_name": model,
    }
    samples = [Sample({**labels, "quantity": "sampled_at"}, now, now)]
    samples += [
        Sample(
            {**labels, "quantity": "started_at"}
            if name == STARTED
            else {**labels, "__name__": name},
            value,
            now,
        )
        for name, value in page.items()
    ]
    (pod,) = promql.pods(samples)
    return pod.page


async def matrix(objects: Path, origin: Origin) -> list[Outcome]:
    """Run all cases, with objects in that folder."""
    clock, all_cases = ManualClock(10_000.0), list(cases())
    collection = CollectionSettings(interval=SECONDS, window=60, long_window=0, source="direct")
    scenario.write_deployment(objects, ["http://127.0.0.1:1"], PODS)
    inputs = folder.read(objects)
    (source,) = inputs.variants
    variants = {
        case: dataclasses.replace(
            source, name=f"v{number}", replicas=PODS, spec_replicas=PODS, uid=f"v{number}",
            endpoints=tuple(f"v{number}-{pod}" for pod in range(PODS)),
        )
        for number, case in enumerate(all_cases)
    }  # fmt: skip

    async def plan(snapshot: fleet.Fleet) -> planning.Plan:
        return planning.plan(snapshot)

    async with aiohttp.ClientSession() as session:
        collector = Collector(session=session, clock=clock, settings=collection)
        loop = ControlLoop(
            collector=collector,
            store=TargetStore(),
            clock=clock,
            planner=plan,
            settings=LoopSettings(
                collection=collection,
                rates=RateSettings(anticipate=False, drain_seconds=0, headroom=0),
                limits=StabilizationLimits(down_seconds=30),
                down_startups=0.0,
                time_to_live=300,
            ),
        )
        loop.apply_inputs(dataclasses.replace(inputs, variants=tuple(variants.values())))
        targets: dict[str, list[int | None]] = {source.key: [] for source in variants.values()}
        said: Mapping[str, str] = {}
        began, since = clock.at, 0.0
        for cycle in range(BEFORE + DURING + AFTER):
            clock.at += SECONDS
            at, faulty = clock.at - began, BEFORE <= cycle < BEFORE + DURING
            since = at - SECONDS if cycle == BEFORE else since
            for case, variant in variants.items():
                for number, endpoint in enumerate(variant.endpoints):
                    broken = faulty or (case.lasts and cycle >= BEFORE)
                    broken = broken and number < case.pods
                    page = case.page(at, since) if broken else steady(at)
                    metrics = None if page is None else _read(page, origin, endpoint, clock.at)
                    if metrics is not None:
                        collector.add(variant.key, endpoint, metrics, now=clock.at, source=origin)
            loop.record_scrape()
            await loop.reconcile()
            for key, state in loop.states.items():
                targets[key].append(state.desired)
            if cycle == BEFORE + DURING - 1:
                said = {key: state.problem or state.reason for key, state in loop.states.items()}
        collector.close()
    return [
        _outcome(case, targets[variant.key], said[variant.key])
        for case, variant in variants.items()
    ]


def _outcome(case: Case, targets: list[int | None], said: str) -> Outcome:
    later = targets[BEFORE - 1 :]
    numbers = [value for value in later if value is not None]
    return Outcome(
        case=case,
        right=targets[BEFORE - 1],
        least=min(numbers) if len(numbers) == len(later) else None,
        most=max(numbers, default=None),
        said=said,
        targets=tuple(later),
    )
