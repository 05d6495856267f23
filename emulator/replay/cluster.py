"""The simulated cluster that a policy scales: traffic, replicas and their metrics over time."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence

import numpy as np

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.histogram import Histogram
from adapter.collector.servers.moments import of_buckets
from adapter.collector.servers.totals import Moments
from emulator import simulation
from emulator.replay import scoring
from emulator.replay.groups.closing import ClosableFleet
from emulator.replay.replicas.specs import ProfileSteps, VariantSpec, engine_profile
from emulator.replay.results import Curves
from emulator.replay.scenario import Scenario
from emulator.server import Counters
from emulator.traces import Trace
from emulator.vllm_metrics import ITL_BUCKETS, TOKEN_BUCKETS, TTFT_BUCKETS

_BINS_AT_ONCE = 128
"""Bins of the curves that are computed together: all at once would copy every request several times."""

_TOKEN_BOUNDS = (*map(str, TOKEN_BUCKETS), "+Inf")
"""Bounds of the histograms of tokens, as a page spells them."""

_ROUNDING_MS = 1.0
"""More than the rounding between a time in ms and one in seconds."""


class ReplayCluster:
    """The fleet of one run, its clock, and samples of its state.

    Attributes:
        now: Seconds since the beginning of the run.
        spec_replicas: Replicas that each variant's scale asks for, by the variant's name.
        scale_ups: Increases of `spec_replicas` so far, over all variants.
        scale_downs: Decreases of `spec_replicas` so far, over all variants.
        queue_peak: Largest number of waiting requests in any sample.

    """

    def __init__(self, scenario: Scenario, traffic: Mapping[str, Trace]) -> None:
        self.scenario = scenario
        self.variants = {variant.name: variant for variant in scenario.variants}
        self.traffic = traffic
        self.fleet = ClosableFleet(
            [_simulated(variant, scenario) for variant in scenario.variants],
            traces=traffic,
            pools={
                name: item.devices
                for name, item in scenario.accelerators.items()
                if item.devices is not None
            },
            routing=scenario.routing,
            clients={
                model.model: simulation.Clients(
                    timeout_seconds=model.clients.timeout,
                    retries=model.clients.retries,
                    backoff_seconds=model.clients.backoff,
                )
                for model in scenario.models
                if model.clients is not None
            },
        )
        self.now = 0.0
        self.spec_replicas = {variant.name: variant.replicas for variant in scenario.variants}
        self.scale_ups = self.scale_downs = 0
        self.queue_peak = 0
        self._rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in self.variants}

    def advance(self, until: float) -> None:
        """Simulate the traffic up to that time, in seconds since the beginning."""
        self.fleet.advance(until)
        self.now = until

    def scale(self, name: str, replicas: int) -> None:
        """Set the replicas of a variant, and count the change as a scale event."""
        before = self.spec_replicas[name]
        if replicas == before:
            return
        self.scale_ups += replicas > before
        self.scale_downs += replicas < before
        self.spec_replicas[name] = replicas
        self.fleet.scale(name, replicas)

    def close(self, name: str) -> None:
        """Let no node take new replicas of a variant; where the scenario says so, evict those that run."""
        gone = self.variants[name].unschedulable
        self.fleet.close(name, evict=gone is not None and gone.evict)

    def unschedulable(self, name: str) -> int:
        """Replicas of a variant that no node takes at the moment: its own are closed, or full."""
        return self.fleet.replicas(name, "pending")

    def ready(self, name: str) -> tuple[Counters, ...]:
        """Counters of a variant's ready replicas; those that start or drain are left out."""
        return tuple(item for item in self.fleet.counters(name) if item.state == "ready")

    def queued_share(self, name: str) -> float:
        """Requests of its model that wait for a first replica; variants of one model share them evenly."""
        model = self.variants[name].model
        return self.fleet.gateway(model) / self._siblings(model)

    def queued_tokens_share(self, name: str) -> float:
        """Prompt tokens of the requests of `queued_share`."""
        model = self.variants[name].model
        return self.fleet.queued_prompt_tokens(model) / self._siblings(model)

    def _siblings(self, model: str) -> int:
        return sum(item.model == model for item in self.variants.values())

    def cost_cents(self, name: str) -> float:
        """Cost of a variant's GPUs so far, cents."""
        cost = self.scenario.accelerators[self.variants[name].accelerator].cost
        return cost * self.fleet.gpu_seconds(name) / 3600

    def sample(self, desired: Mapping[str, float]) -> None:
        """Record the present state for the curves; `desired` is what the policy wants, by variant."""
        waiting = 0
        for name, variant in self.variants.items():
            ready = self.ready(name)
            queue = sum(item.waiting for item in ready) + self.fleet.gateway(variant.model)
            waiting += queue
            self._rows[name].append(
                (
                    self.now,
                    float(self.fleet.offered(variant.model)),
                    float(len(ready)),
                    float(self.fleet.replicas(name, "starting", "ready")),
                    desired.get(name, np.nan),
                    float(queue),
                    self.cost_cents(name),
                )
            )
        self.queue_peak = max(self.queue_peak, waiting)

    def curves(self, results: simulation.Results) -> dict[str, Curves]:
        """The recorded samples, with the latencies of the requests, by variant."""
        curves = {}
        for index, (name, variant) in enumerate(self.variants.items()):
            at, offered, ready, created, desired, waiting, cost = np.array(self._rows[name]).T
            arrived = np.diff(offered, prepend=0.0)
            spans = np.diff(at, prepend=0.0)
            of_variant = scoring.rows(results.variant == index)
            curves[name] = Curves(
                model=variant.model,
                seconds=at,
                offered_rpm=60.0 * arrived / np.where(spans > 0, spans, np.inf),
                ready=ready,
                created=created,
                desired=desired,
                waiting=waiting,
                ttft_p95_ms=_binned(
                    at, results.first_token_ms[of_variant], results.ttft_ms[of_variant]
                ),
                itl_p95_ms=_binned(at, results.finish_ms[of_variant], results.itl_ms[of_variant]),
                cost_cents=cost,
            )
        return curves


def pod_metrics(counters: Counters, *, kv_tokens: int | None = None) -> PodMetrics:
    """The metrics of one replica, as a scrape of its page gives them; `kv_tokens` is its KV cache."""
    engine = bool(counters.prompt_buckets)
    return PodMetrics(
        finished=counters.finished,
        running=counters.running,
        waiting=counters.waiting,
        prompt_tokens=counters.prompt_tokens,
        generation_tokens=counters.generation_tokens,
        ttft=counters.ttft,
        itl=counters.itl,
        kv_cache=counters.kv_cache,
        input_moments=_moments(counters.prompt_buckets),
        output_moments=_moments(counters.generation_buckets),
        cached_tokens=(counters.cached_tokens_total, counters.prompt_tokens_total)
        if engine
        else (0.0, 0.0),
        preemptions=counters.preemptions,
        kv_tokens=kv_tokens,
        started_at=counters.started_seconds - counters.startup_seconds,
        ttft_buckets=_histogram(TTFT_BUCKETS, counters.ttft_buckets),
        itl_buckets=_histogram(ITL_BUCKETS, counters.itl_buckets),
        tpot_buckets=_histogram(ITL_BUCKETS, counters.tpot_buckets),
    )


def _histogram(bounds: tuple[float, ...], counts: Sequence[int]) -> Histogram | None:
    """Histogram of latencies with these bounds in seconds; None of what is not counted."""
    return Histogram(bounds, array("d", counts)) if counts else None


def _moments(buckets: Sequence[int]) -> Moments | None:
    """Moments of a histogram of tokens, as its series on a page give them; None without a histogram."""
    up_to = list(map(float, itertools.accumulate(buckets)))
    return of_buckets(_TOKEN_BOUNDS, up_to) if buckets else None


def _simulated(variant: VariantSpec, scenario: Scenario) -> simulation.SimulatedVariant:
    limited = scenario.accelerators[variant.accelerator].devices is not None
    engine = variant.served_by
    # Step times of a profile have a faster way than the engines' Protocol.
    own = engine.parms if isinstance(engine, ProfileSteps) else None
    return simulation.SimulatedVariant(
        name=variant.name,
        profile=None if own is None else engine_profile(own),
        engine=engine.factory() if own is None else None,
        model=variant.model,
        start_delay_seconds=variant.startup_time.median,
        start_delay_sigma=variant.startup_time.sigma,
        seed=variant.startup_time.seed,
        devices=variant.devices,
        pool=variant.accelerator if limited else None,
        replicas=variant.replicas,
    )


def _binned(
    edges: np.ndarray[tuple[int], np.dtype[np.float64]],
    at_ms: np.ndarray[tuple[int], np.dtype[np.float64]],
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """95th percentile of the values between one edge and the next; NaN where there is none."""
    percentiles = np.full(len(edges), np.nan)
    for first in range(0, len(edges), _BINS_AT_ONCE):
        last = min(first + _BINS_AT_ONCE, len(edges))
        after = 1000 * edges[first - 1] - _ROUNDING_MS if first else -np.inf
        near = (at_ms > after) & (at_ms < 1000 * edges[last - 1] + _ROUNDING_MS)
        bins = np.searchsorted(edges, at_ms[near] / 1000)
        order = np.argsort(bins, kind="stable")
        bins, ordered = bins[order], values[near][order]
        bounds = np.searchsorted(bins, np.arange(first, last + 1))
        for place, (start, end) in enumerate(itertools.pairwise(bounds), start=first):
            if start < end:
                percentiles[place] = np.percentile(ordered[start:end], 95)
    return percentiles
