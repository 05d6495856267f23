"""Tainted nodes count for those whose pods tolerate the taints: a tenant's template opens them for nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from adapter.controller import stabilization
from adapter.controller.cycle.early import EVERYBODY
from adapter.controller.cycle.written import Written
from adapter.resources import gpus, inputs
from adapter.resources.devices import taints
from adapter.resources.watched import narrowed
from optimizer import solvers
from optimizer.problem import Candidate, Problem, VariantCandidates
from tests.adapter.resources.gpu_nodes import PRODUCT, Object, node
from tests.security.objects.test_shared_devices import (
    DEVICE,
    MEMORY,
    bound,
    read,
    tenant,
)

ANY = [{"operator": "Exists"}]
TAINT = {"key": "dedicated", "value": "x", "effect": "NoSchedule"}
OTHER = {"key": "spot", "value": "", "effect": "NoSchedule"}


def nodes(**tainted: list[dict[str, str]]) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """Nodes of 8 GPUs each, with these taints."""
    labels: dict[str, str] = {PRODUCT: DEVICE, MEMORY: "81559"}
    return {
        ("", name): gpus.trimmed(node(name, "8", labels, taints=given))
        for name, given in tainted.items()
    }


def tolerating(namespace: str, tolerations: list[Any], *, count: int = 1) -> tuple[Object, ...]:
    variant, workload, pod = tenant(namespace, DEVICE, count=count)
    spec = workload["spec"]
    template = {
        **spec["template"],
        "spec": {**spec["template"]["spec"], "tolerations": tolerations},
    }
    pod = {**pod, "spec": {**pod["spec"], "tolerations": tolerations}}
    return variant, {**workload, "spec": {**spec, "template": template}}, pod


def room(known: inputs.Inputs) -> dict[str, int]:
    """Devices that a variant of each namespace has by itself."""
    assert known.capacity is not None
    room = {}
    for source in known.variants:
        device, number = stabilization.devices(known, source, source.accelerator)
        assert number
        room[source.namespace] = known.capacity[device]
    return room


def test_one_template_opens_tainted_nodes_for_nobody_else() -> None:
    """With `operator: Exists` in it, the nodes that only it may use counted for all."""
    there = nodes(a=[], b=[TAINT])
    assert room(read(tenant("m", DEVICE, count=1), nodes=there)) == {"m": 8}
    known = read(tenant("m", DEVICE, count=1), tolerating("t", ANY), nodes=there)
    assert room(known) == {"m": 8, "t": 16}


@pytest.mark.parametrize("key", ["dedicated", "nvidia.com/gpu"])
def test_nodes_that_are_all_tainted_count_for_who_tolerates_them(key: str) -> None:
    """As in a cluster of one tenant, whose GPU nodes have a taint each."""
    taint = {**TAINT, "key": key}
    there = nodes(a=[taint], b=[taint])
    known = read(
        tolerating("m", [{"key": key, "operator": "Exists"}]), tolerating("n", ANY), nodes=there
    )
    assert room(known) == {"m": 16, "n": 16}
    assert known.within == {}


def test_each_has_the_nodes_that_it_tolerates() -> None:
    known = read(
        tolerating("a", [{"key": "dedicated", "operator": "Exists"}]),
        tolerating("b", [{"key": "spot", "operator": "Exists"}]),
        tenant("m", DEVICE, count=1),
        nodes=nodes(a=[], b=[TAINT], c=[OTHER], d=[TAINT, OTHER]),
    )
    # Nobody tolerates both.
    assert room(known) == {"a": 16, "b": 16, "m": 8}
    assert sorted(map(len, known.within.values())) == [1, 1, 3]


def test_what_runs_on_a_node_that_is_tainted_later_stays_its_own() -> None:
    """Its replicas would be taken away else, where another tenant tolerates the taint."""
    variant, workload, pod = tenant("m", DEVICE, count=6)
    running = bound(pod)
    for there, others in ((nodes(a=[TAINT]), 8), (nodes(a=[TAINT, OTHER], b=[OTHER]), 14)):
        spot = tolerating("t", [{"key": "spot", "operator": "Exists"}])
        tolerant = tolerating("t", ANY) if others == 8 else spot
        known = read((variant, workload, running), tolerant, nodes=there)
        assert room(known) == {"m": 6, "t": others}


def test_tolerations_request_no_cycle_in_the_name_of_others() -> None:
    """Each early cycle was on the account of all namespaces, whose own changes then waited."""
    there = nodes(a=[], b=[TAINT], c=[OTHER])
    others = tenant("m", DEVICE, count=1), tolerating("n", [{"key": "spot", "operator": "Exists"}])
    written = Written()
    written.changes(read(*others, tenant("t", DEVICE, count=1), nodes=there))
    changed = read(*others, tolerating("t", ANY), nodes=there)
    assert written.changes(changed) <= {"t", EVERYBODY}
    # Their nodes are open now: what it leaves and takes again is nobody's change.
    narrow = [
        tolerating("t", [{"key": key, "operator": "Exists"}]) for key in ("dedicated", "spot")
    ]
    open_to_all = *others, tolerating("o", ANY)
    written.changes(read(*open_to_all, narrow[0], nodes=there))
    assert not written.changes(read(*open_to_all, narrow[1], nodes=there)) - {"t"}


def test_parts_of_many_types_of_gpus_are_told_apart() -> None:
    """Beyond 8 types a variant had only nodes without taints: none, where all GPU nodes have one."""
    own, other = (taints.Taint(key, "", "NoSchedule") for key in ("dedicated", "spot"))
    known = read(tenant("m", DEVICE, count=1), nodes=nodes(a=[]))
    (source,) = known.variants
    unit = known.accelerator_named[source.accelerator]
    names = [f"GPU-{number}" for number in range(2 * narrowed.MOST_TYPES)]
    types = (
        gpus.GpuType(
            name=name,
            product=name,
            memory_gib=None,
            total=16,
            free=16,
            held_on_closed=0,
            by_taints={(own,): 8, (own, other): 8},
        )
        for name in names
    )
    known = narrowed.applied(
        replace(
            known,
            accelerators=tuple(replace(unit, name=name, device_type=name) for name in names),
            variants=tuple(
                replace(source, name=name, accelerator=name, own_accelerator=None) for name in names
            ),
            capacity=dict.fromkeys(names, 16),
        ),
        gpus.Inventory(types=tuple(types), left_out=()),
        dict(zip(names, names, strict=True)),
        {},
        {("m", source.reference): {frozenset({taints.Toleration("dedicated", None, "")})}},
    )
    assert known.capacity is not None
    rooms = [
        known.capacity[item.narrowed[name]]
        for item, name in zip(known.variants, names, strict=True)
    ]
    assert rooms == [8] * len(names)


def test_what_runs_elsewhere_takes_nothing_from_wider_parts() -> None:
    """It counted there, where its devices were not: another tenant had 2 of its 8."""
    variant, workload, pod = tenant("m", DEVICE, count=6)
    known = read(
        (variant, workload, bound(pod)),
        tolerating("t", [{"key": "spot", "operator": "Exists"}]),
        tolerating("x", ANY),
        nodes=nodes(a=[TAINT, OTHER], b=[OTHER]),
    )
    assert room(known) == {"m": 6, "t": 6 + 8, "x": 16}


@pytest.mark.parametrize("solver", ["greedy", "branch-and-bound"])
@pytest.mark.parametrize("first", ["a", "b"])
def test_devices_of_two_wider_parts_are_given_once(solver: Any, first: str) -> None:
    """Nodes without taints are for both: what was given there to a third one counted for one of them."""
    known = read(
        tolerating("a", [{"key": "dedicated", "operator": "Exists"}]),
        tolerating("b", [{"key": "spot", "operator": "Exists"}]),
        tenant("m", DEVICE, count=1),
        nodes=nodes(a=[], b=[TAINT], c=[OTHER]),
    )
    variants = []
    for source in known.variants:
        device, _ = stabilization.devices(known, source, source.accelerator)
        priority = 1 if source.namespace == "m" else 2 if source.namespace == first else 3
        wanted = Candidate("x", 20, 1, 1.0, 1.0, 1.0, 1.0, "", device, 1)
        item = VariantCandidates(name=source.namespace, candidates=(wanted,), priority=priority)
        variants.append(item)
    problem = Problem(
        variants=tuple(variants),
        capacity=known.capacity,
        within=known.within,
        policy="PriorityExhaustive",
    )
    plan = solvers.solve(problem, solver)
    taken = {name: item.devices for name, item in plan.allocations.items()}
    assert taken == {"m": 8, "a": 8, "b": 8}


@pytest.mark.parametrize("solver", ["greedy", "branch-and-bound"])
@pytest.mark.parametrize("policy", ["None", "PriorityExhaustive", "PriorityRoundRobin"])
@pytest.mark.parametrize("first", ["narrow", "wide"])
def test_a_plan_gives_no_device_twice(solver: Any, policy: Any, first: str) -> None:
    """Devices of the narrower type are among those of the wider one, whoever comes first."""

    def wanting(name: str, device: str, priority: int) -> VariantCandidates:
        several = tuple(
            Candidate(f"x{devices}", 12 // devices, 1, 1.0, 1.0, 1.0, 1.0, "", device, devices)
            for devices in (1, 2)
        )
        return VariantCandidates(name=name, candidates=several, priority=priority)

    plan = solvers.solve(
        Problem(
            variants=(
                wanting("narrow", "part", 1 + (first == "wide")),
                wanting("wide", "all", 1 + (first == "narrow")),
            ),
            capacity={"all": 16, "part": 8},
            within={"part": ("all",)},
            policy=policy,
        ),
        solver,
    )
    taken = {name: item.devices for name, item in plan.allocations.items()}
    assert taken["narrow"] <= 8
    assert sum(taken.values()) <= 16
    assert sum(taken.values()) == (12 if policy == "None" else 16)
