"""Parts of tainted nodes that overlap: what is planned on them together is what there is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest

from adapter.controller import stabilization
from adapter.resources import inputs
from adapter.resources.watched import unions
from optimizer import solvers
from optimizer.problem import Candidate, Problem, VariantCandidates
from tests.adapter.resources.gpu_nodes import Object
from tests.security.objects.test_shared_devices import DEVICE, read, tenant
from tests.security.objects.test_tainted_nodes import nodes, room, tolerating

WANTED = 100
"""More devices than there are."""


def taint(key: str) -> dict[str, str]:
    return {"key": key, "value": "", "effect": "NoSchedule"}


def team(namespace: str, *keys: str) -> tuple[Object, ...]:
    """A variant whose pods tolerate taints of these keys."""
    return tolerating(namespace, [{"key": key, "operator": "Exists"} for key in keys])


def planned(known: inputs.Inputs, solver: Any, turn: Mapping[str, int]) -> dict[str, int]:
    """Devices by namespace, where each wants more than there are; `turn`: priorities."""
    variants = []
    for source in known.variants:
        device, _ = stabilization.devices(known, source, source.accelerator)
        wanted = Candidate("x", WANTED, 1, 1.0, 1.0, 1.0, 1.0, "", device, 1)
        name = source.namespace
        variants.append(VariantCandidates(name=name, candidates=(wanted,), priority=turn[name]))
    given = Problem(
        variants=tuple(variants),
        capacity=known.capacity,
        within=known.within,
        policy="PriorityExhaustive",
    )
    plan = solvers.solve(given, solver)
    return {name: item.devices for name, item in plan.allocations.items()}


@pytest.mark.parametrize("solver", ["greedy", "branch-and-bound"])
def test_teams_that_share_nodes_beside_their_own_get_these_once(solver: Any) -> None:
    """Each has nodes of its own: while the third wanted none, two had 32 of their 24 together."""
    known = read(
        team("a", "a"),
        team("b", "b"),
        team("c", "c"),
        nodes=nodes(n=[], a=[taint("a")], b=[taint("b")], c=[taint("c")]),
    )
    assert room(known) == {"a": 16, "b": 16, "c": 16}
    assert planned(known, solver, {"a": 1, "b": 2, "c": 3}) == {"a": 16, "b": 8, "c": 8}


@pytest.mark.parametrize("seed", range(12))
def test_what_is_planned_fits_the_nodes_whatever_parts_there_are(seed: int) -> None:
    """Of each set of nodes no more is given than it has, and of all together what they have."""
    random_of = random.Random(seed)  # noqa: S311 - no secret
    keys = "pqrst"
    there = {
        f"n{number}": [taint(key) for key in random_of.sample(keys, random_of.choice((0, 1, 2)))]
        for number in range(7)
    }
    tolerated = {
        f"t{number}": random_of.sample(keys, random_of.randint(1, 4)) for number in range(6)
    }
    turns = {name: random_of.randint(1, 3) for name in tolerated}
    known = read(*(team(name, *some) for name, some in tolerated.items()), nodes=nodes(**there))
    taken = planned(known, "greedy", turns)
    admitted = {
        name: {node for node, given in there.items() if {item["key"] for item in given} <= {*some}}
        for name, some in tolerated.items()
    }
    for number in range(1, len(there) + 1):
        for some in itertools.combinations(there, number):
            inside = sum(taken[name] for name, among in admitted.items() if among <= {*some})
            assert inside <= 8 * number
    assert sum(taken.values()) == 8 * len(set[str]().union(*admitted.values()))


def test_of_too_many_unions_those_count_that_are_full() -> None:
    """Thirty teams beside shared nodes have 2^30 unions; those that ask for more than theirs are one."""
    names = [f"t{number:02}" for number in range(30)]
    there = nodes(n=[], **{name: [taint(name)] for name in names})
    teams = [team(name, name) for name in names]
    for number in (3, 9, 15, 21, 27):
        variant, workload, pod = teams[number]
        asks = {**workload, "spec": {**workload["spec"], "replicas": 12}}
        teams[number] = variant, asks, pod
    known = read(*teams, nodes=there)
    assert known.capacity is not None
    asking = [item for item in known.variants if item.spec_replicas == 12]
    assert len(asking) == 5
    together = set.intersection(*({*known.within[item.narrowed[DEVICE]]} for item in asking))
    assert min(known.capacity[kind] for kind in together) == 8 + 5 * 8
    assert max(map(len, known.within.values())) <= unions.MOST_UNIONS + 1


def test_parts_that_are_named_alike_are_told_apart() -> None:
    """Messages name three taints; a tenant may give its device the name of another's part."""
    teams = [team(f"t{number}", f"z{number}") for number in range(6)]
    keys = ["a", "b", "c", *(f"z{number}" for number in range(6))]
    there = nodes(n=[], **{key: [taint(key)] for key in keys})
    tenants = [tenant("m", DEVICE, count=1), team("all", "a", "b", "c"), *teams]
    known = read(*tenants, nodes=there)
    narrow = {item.namespace: item.narrowed[DEVICE] for item in known.variants}
    assert len({*narrow.values()}) == len(tenants)
    assert max(map(len, narrow.values())) < 100
    spelled = read(*tenants, tenant("x", narrow["m"], count=1), nodes=there)
    (victim,) = [item for item in spelled.variants if item.namespace == "m"]
    assert spelled.capacity is not None
    assert spelled.capacity[victim.narrowed[DEVICE]] == 8
