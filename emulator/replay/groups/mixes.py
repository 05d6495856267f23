"""Mixes of a group's variants: the planner's own answer to a rate that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Group
from adapter.resources.inputs import Inputs
from emulator.replay.adapter_policy import inputs_of
from emulator.replay.replicas.planner import truth_of
from emulator.replay.replicas.specs import VariantSpec
from emulator.replay.results import FloatArray
from emulator.replay.scenario import Scenario
from emulator.traces import Trace

Mix = Mapping[str, int]
"""Replicas by variant."""

_STEP = 1.02
"""Ratio of two rates that are planned apart; others are rounded up."""

HOLDS_SECONDS = (0.0, 60.0, 180.0, 600.0)
"""Lengths of valleys of the rate that are filled: what is given up for them has to be started again."""


class Mixes:
    """Mixes of least cost of one group.

    Mean latencies are at the SLO targets, and engines have their own parameters.
    """

    def __init__(self, scenario: Scenario, model: str, trace: Trace) -> None:
        self.members = {item.name: item for item in scenario.groups[model]}
        self._inputs = inputs_of(scenario, percentile=None, profile=truth_of)
        self._routing = scenario.routing
        self._lengths = float(np.mean(trace.input_tokens)), float(np.mean(trace.output_tokens))
        self._most = {item.name: _most(item, scenario) for item in self.members.values()}
        self._planned_mixes: dict[tuple[int, frozenset[str]], Mix] = {}

    def mix(self, rate: float, names: Sequence[str]) -> Mix:
        """Replicas by variant that carry a rate, requests per second, with these variants alone."""
        step = math.ceil(math.log(max(rate, 1e-3), _STEP) - 1e-9)
        key = step, frozenset(names)
        if key not in self._planned_mixes:
            self._planned_mixes[key] = self._planned(_STEP**step, key[1])
        return self._planned_mixes[key]

    def _planned(self, rate: float, names: frozenset[str]) -> Mix:
        mix = dict.fromkeys(self.members, 0)
        fleet_ = group_fleet(
            self._inputs,
            names=names,
            most=self._most,
            rate=rate,
            lengths=self._lengths,
            routing=self._routing,
        )
        if not fleet_.variants:
            return mix
        for key, decision in planning.plan(fleet_).decisions.items():
            mix[key.partition("/")[2]] = decision.candidate.replicas
        if not any(mix.values()):
            # Nothing meets the targets, whatever the number: the cheapest serves at least.
            mix[min(names)] = 1
        return mix


def group_fleet(
    inputs: Inputs,
    *,
    names: frozenset[str],
    most: Mapping[str, int],
    rate: float,
    lengths: tuple[float, float],
    routing: str,
) -> fleet.Fleet:
    """The variants of these names as one group that is offered a rate, requests per second."""
    load = fleet.Load(arrival_rate_rps=rate, input_tokens=lengths[0], output_tokens=lengths[1])
    sources = [item for item in inputs.variants if item.name in names and most[item.name] > 0]
    variants = tuple(
        fleet.Variant(
            name=source.key,
            model=source.model,
            service_class=source.service_class,
            profiles=source.profiles,
            load=load,
            current=fleet.CurrentAllocation(accelerator=source.accelerator, replicas=0),
            min_replicas=min(source.min_replicas or 0, most[source.name]),
            max_replicas=most[source.name],
            keep_accelerator=True,
        )
        for source in sources
    )
    group = Group(
        name="group",
        model=sources[0].model if sources else "",
        service_class=sources[0].service_class if sources else "",
        variants=tuple(item.name for item in variants),
        traffic=load,
        routing="round-robin" if routing == "round-robin" else "least-loaded",
    )
    return fleet.Fleet(
        accelerators=inputs.accelerators,
        service_classes=inputs.service_classes,
        variants=variants,
        capacity=inputs.capacity,
        settings=replace(fleet.Settings(), transition_factor=0.0, hysteresis=0.0),
        groups=(group,),
    )


def _most(variant: VariantSpec, scenario: Scenario) -> int:
    """Most replicas of a variant: its maximum, and what its GPUs hold."""
    devices = scenario.accelerators[variant.accelerator].devices
    held = variant.max_replicas if devices is None else devices // variant.devices
    return min(variant.max_replicas, held)


def filled(rates: FloatArray, bins: int) -> FloatArray:
    """The rates without valleys of up to that many bins."""
    if bins < 1 or not len(rates):
        return rates
    padded = np.pad(rates, bins, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, bins + 1)
    highest: FloatArray = np.min(
        np.lib.stride_tricks.sliding_window_view(np.max(windows, axis=1), bins + 1), axis=1
    )
    return highest
