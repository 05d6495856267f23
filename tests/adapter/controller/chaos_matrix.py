"""The matrix of faulty inputs: each input of a page by each fault, read from the pods or from Prometheus.

All cases run beside each other as variants of one control loop in virtual time: four pods with a steady load,
then the fault at one of them or at all. The load stays the same throughout, so that the target which is right
is the one from before the fault.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp

from adapter.collector import exposition, promql
from adapter.collector.collector import CollectionSettings
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import STARTED, PodMetrics
from adapter.collector.servers import lines
from adapter.controller.demand import RateSettings
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources import folder
from adapter.resources.variant import VariantSource
from adapter.store import TargetStore
from emulator.demo import scenario
from optimizer.stabilization import StabilizationLimits
from tests.adapter.controller.chaos_faults import NONE, PODS, SECONDS, Case, text_of
from tests.adapter.controller.chaos_pickers import Pickers, WithPickers, steady_picker
from tests.adapter.controller.chaos_servers import Page, Server
from tests.fakes.virtual_time import ManualClock

Origin = Literal["direct", "prometheus"]

BEFORE, DURING, AFTER = 12, 12, 6
"""Cycles of ten seconds before, during and after the fault."""

BEGAN = 10_000.0
"""Unix and monotonic seconds at which the load began."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the target of one case.

    Attributes:
        right: Target before the fault, which the load needs throughout; with one that is always there as many
            as there are pods, which the same load needs.
        usual: Least and largest target without the fault, where requests come by chance.
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
    usual: tuple[int, int] | None = None

    @property
    def holds(self) -> bool:
        """Whether the target was the right one all the time."""
        if self.case.always and self.least is None:
            return bool(self.said)  # its pages are refused, with the reason
        if self.right is None or self.least is None or self.most is None:
            return False
        least, most = self.usual or (self.right, self.right)
        return least <= self.least and self.most <= most

    @property
    def shown(self) -> str:
        """The right target for tables."""
        least, most = self.usual or (self.right, self.right)
        return str(least) if least == most else f"{least} to {most}"


class _All:
    def __contains__(self, name: object) -> bool:
        return True


def _text(page: Page, server: Server) -> str:
    """A page as it is written."""
    return text_of(page, {"model_name": scenario.MODEL} if server.names_model else {})


@functools.lru_cache(maxsize=16)
def _steady_text(server: Server, at: float) -> str:
    """The page without a fault, which is that of most pods of most cases."""
    return _text(server.steady(at), server)


@functools.lru_cache(maxsize=64)
def _read(text: str, server: Server, origin: Origin, now: float) -> PodMetrics | None:
    """A page as one of the sources reads it, whichever pod's it is; None where it is refused."""
    model = scenario.MODEL
    if origin == "direct":
        try:
            return exposition.parse(text, model, "p")
        except exposition.ScrapeError:
            return None
    target = {"namespace": "n", "pod": "p", "instance": "p", "job": "j"}
    samples = []
    for name, labels, value in lines.read(text, _All()):
        own = {"quantity": "started_at"} if name == STARTED else {"__name__": name}
        samples.append(Sample({**target, **labels, **own}, value, now))
    for name in {sample.labels.get("model_name", "") for sample in samples}:
        named = {"model_name": name} if server.names_model else {}
        samples.append(Sample({**target, **named, "quantity": "sampled_at"}, now, now))
    named_so = model if server.names_model else ""
    return next((pod.page for pod in promql.pods(samples) if pod.model == named_so), None)


def _variants(source: VariantSource, cases: Iterable[Case]) -> dict[Case, VariantSource]:
    """A variant with four pods for each case, in a namespace of its own."""
    return {
        case: dataclasses.replace(
            source, name=f"v{number}", namespace=f"n{number}", replicas=PODS, spec_replicas=PODS,
            uid=f"v{number}", endpoints=tuple(f"v{number}-{pod}" for pod in range(PODS)),
            pods=tuple(f"p-{pod}" for pod in range(PODS)),
        )
        for number, case in enumerate(cases)
    }  # fmt: skip


def _restarted(
    variants: Mapping[Case, VariantSource], moment: _Moment
) -> dict[Case, VariantSource]:
    """The variants whose pods have another status than before."""
    changed = {}
    for case, variant in variants.items():
        restarts = {f"{variant.name}-{pod}": at for pod, at in moment.restarts(case).items()}
        if restarts != variant.restarts:
            changed[case] = dataclasses.replace(variant, restarts=restarts)
    return changed


async def _plan(snapshot: fleet.Fleet) -> planning.Plan:
    return planning.plan(snapshot)


def _loop(
    collector: WithPickers, clock: ManualClock, collection: CollectionSettings
) -> ControlLoop:
    return ControlLoop(
        collector=collector,
        store=TargetStore(),
        clock=clock,
        planner=_plan,
        settings=LoopSettings(
            collection=collection,
            rates=RateSettings(anticipate=False, drain_seconds=0, headroom=0),
            limits=StabilizationLimits(down_seconds=30),
            down_startups=0.0,
            time_to_live=300,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """One cycle: the time from the beginning and that at which faults began, seconds."""

    cycle: int
    at: float
    since: float

    def faulty(self, case: Case) -> bool:
        """Whether a case has its fault."""
        during = BEFORE <= self.cycle < BEFORE + DURING
        return during or case.always or (case.lasts and self.cycle >= BEFORE)

    def texts(self, case: Case) -> Iterator[str | None]:
        """The page of each pod; None where it does not answer."""
        faulty = case.pods if self.faulty(case) else 0
        text: str | None = None
        for pod in range(PODS):
            later = pod * case.server.apart_seconds
            if pod >= faulty:
                text = _steady_text(case.server, self.at + later)
            elif pod == 0 or later:
                page = case.page(self.at + later, self.since + later)
                text = None if page is None else _text(page, case.server)
                text = case.written(text) if text and case.written is not None else text
            yield text

    def restarts(self, case: Case) -> Mapping[str, float]:
        """When containers of its pods last started again, Unix seconds, by number of the pod."""
        if case.restarted is None or not self.faulty(case):
            return {}
        at = case.restarted(self.at, self.since)
        return {} if at is None else dict.fromkeys(map(str, range(case.pods)), BEGAN + at)

    def picker(self, case: Case) -> Page | None:
        """The page of its picker, likewise."""
        if case.picker is not None and self.faulty(case):
            return case.picker(self.at, self.since)
        return steady_picker(self.at)


async def matrix(objects: Path, origin: Origin, cases: Iterable[Case]) -> list[Outcome]:
    """Run cases, with objects in that folder."""
    clock = ManualClock(BEGAN)
    collection = CollectionSettings(interval=SECONDS, window=60, long_window=0, source="direct")
    scenario.write_deployment(objects, ["http://127.0.0.1:1"], PODS)
    inputs = folder.read(objects)
    variants = _variants(inputs.variants[0], cases)
    async with aiohttp.ClientSession() as session, Pickers(session, origin) as pickers:
        collector = WithPickers(session=session, clock=clock, settings=collection)
        loop = _loop(collector, clock, collection)
        loop.apply_inputs(dataclasses.replace(inputs, variants=tuple(variants.values())))
        targets: dict[str, list[int | None]] = {source.key: [] for source in variants.values()}
        said: Mapping[str, str] = {}
        for cycle in range(BEFORE + DURING + AFTER):
            clock.at += SECONDS
            moment = _Moment(cycle=cycle, at=SECONDS * (cycle + 1), since=SECONDS * BEFORE)
            if restarted := _restarted(variants, moment):
                variants |= restarted
                loop.apply_inputs(dataclasses.replace(inputs, variants=tuple(variants.values())))
            for case, variant in variants.items():
                for endpoint, text in zip(variant.endpoints, moment.texts(case), strict=True):
                    metrics = _read(text, case.server, origin, clock.at) if text else None
                    if metrics:
                        collector.add(variant.key, endpoint, metrics, now=clock.at, source=origin)
            shown = {
                variant.namespace: moment.picker(case)
                for case, variant in variants.items()
                if case.picker is not None
            }
            await pickers.read(loop, collector, shown, now=clock.at)
            loop.record_scrape()
            await loop.reconcile()
            for key, state in loop.states.items():
                targets[key].append(state.desired)
            if cycle == BEFORE + DURING - 1:
                said = {key: state.problem or state.reason for key, state in loop.states.items()}
        collector.close()
    return _with_usual(
        [
            _outcome(case, targets[variant.key], said[variant.key])
            for case, variant in variants.items()
        ]
    )


def _with_usual(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes with the targets of the same server without a fault, where these change."""
    usual = {
        item.case.server: (item.least, item.most)
        for item in outcomes
        if item.case.fault == NONE and item.least is not None and item.most is not None
    }
    return [dataclasses.replace(item, usual=usual.get(item.case.server)) for item in outcomes]


def _outcome(case: Case, targets: list[int | None], said: str) -> Outcome:
    if case.always:
        known = [value for value in targets if value is not None]
        least, most = min(known, default=None), max(known, default=None)
        return Outcome(
            case=case, right=PODS, least=least, most=most, said=said, targets=tuple(known)
        )
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
