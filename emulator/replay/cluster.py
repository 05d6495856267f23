"""The simulated cluster that a policy acts on: replicas, what they report, and what is scaled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter.collector.model_servers import PodMetrics
from emulator import simulation
from emulator.engine import EngineProfile
from emulator.replay.results import Curves
from emulator.replay.scenario import Scenario, Variant
from emulator.server import Counters
from emulator.simulation import Fleet
from emulator.traces import Trace


class World:
    """One run's fleet, its clock, and what was seen of it.

    Attributes:
        now: seconds since the beginning.
        wanted: replicas that were asked for, by variant.
        ups: changes of them upwards; likewise downs.

    """

    def __init__(self, scenario: Scenario, traffic: Mapping[str, Trace]) -> None:
        self.scenario = scenario
        self.variants = {variant.name: variant for variant in scenario.variants}
        self.traffic = traffic
        self.fleet = Fleet(
            [_simulated(variant, scenario) for variant in scenario.variants],
            traces=traffic,
            pools={
                name: item.devices
                for name, item in scenario.accelerators.items()
                if item.devices is not None
            },
            routing=scenario.routing,
        )
        self.now = 0.0
        self.wanted = {variant.name: variant.replicas for variant in scenario.variants}
        self.ups = self.downs = 0
        self.queue_peak = 0
        self._rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in self.variants}

    def advance(self, until: float) -> None:
        """Let the traffic go on."""
        self.fleet.advance(until)
        self.now = until

    def scale(self, name: str, replicas: int) -> None:
        """Ask for that many replicas of a variant."""
        before = self.wanted[name]
        if replicas == before:
            return
        self.ups += replicas > before
        self.downs += replicas < before
        self.wanted[name] = replicas
        self.fleet.scale(name, replicas)

    def ready(self, name: str) -> tuple[Counters, ...]:
        """What the ready replicas of a variant report."""
        return tuple(item for item in self.fleet.counters(name) if item.state == "ready")

    def cost_cents(self, name: str) -> float:
        """Of a variant until now."""
        cost = self.scenario.accelerators[self.variants[name].accelerator].cost
        return cost * self.fleet.gpu_seconds(name) / 3600

    def sample(self, desired: Mapping[str, float]) -> None:
        """Note one moment for the curves."""
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
        """What was noted, with the latencies of the requests, by variant."""
        found = {}
        for index, (name, variant) in enumerate(self.variants.items()):
            at, offered, ready, created, desired, waiting, cost = np.array(self._rows[name]).T
            arrived = np.diff(offered, prepend=0.0)
            spans = np.diff(at, prepend=0.0)
            mine = results.variant == index
            found[name] = Curves(
                model=variant.model,
                seconds=at,
                offered_rpm=60.0 * arrived / np.where(spans > 0, spans, np.inf),
                ready=ready,
                created=created,
                desired=desired,
                waiting=waiting,
                ttft_p95_ms=_binned(at, results.first_token_ms[mine], results.ttft_ms[mine]),
                itl_p95_ms=_binned(at, results.finish_ms[mine], results.itl_ms[mine]),
                cost_cents=cost,
            )
        return found


def page(counters: Counters, *, startup_seconds: float) -> PodMetrics:
    """A replica's metrics as a scrape would find them."""
    return PodMetrics(
        finished=counters.finished,
        running=counters.running,
        waiting=counters.waiting,
        prompt_tokens=counters.prompt_tokens,
        generation_tokens=counters.generation_tokens,
        ttft=counters.ttft,
        itl=counters.itl,
        kv_cache=counters.kv_cache,
        started_at=counters.started_seconds - startup_seconds,
    )


def _simulated(variant: Variant, scenario: Scenario) -> simulation.Variant:
    profile = variant.profile
    limited = scenario.accelerators[variant.accelerator].devices is not None
    return simulation.Variant(
        name=variant.name,
        profile=EngineProfile(
            alpha_ms=profile.alpha,
            beta_ms=profile.beta,
            gamma_ms=profile.gamma,
            delta_ms=profile.delta,
            max_batch=profile.max_batch_size,
        ),
        model=variant.model,
        start_delay_seconds=variant.startup,
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
    found = np.full(len(edges), np.nan)
    good = np.isfinite(at_ms)
    places = np.searchsorted(edges, at_ms[good] / 1000)
    order = np.argsort(places, kind="stable")
    places, ordered = places[order], values[good][order]
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
        if places[start] < len(edges):
            found[places[start]] = np.percentile(ordered[start:end], 95)
    return found
