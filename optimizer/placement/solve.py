"""Placements by solver name: exact with proof, greedy, or each item as if nothing ran short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from optimizer.placement import exact, greedy, near, worth
from optimizer.placement.gaps import objective
from optimizer.placement.patterns import Patterns, patterns, priced
from optimizer.placement.problem import IntArray, Item, Placed, Problem, Resource, Solution, nothing
from optimizer.problem import SolverName, Termination

_ROOM = 1e-9


def solve(problem: Problem, solver: SolverName = "auto") -> Solution:
    """Replicas of every item.

    auto is branch-and-bound where a resource is limited; without any it makes no difference, as each item's
    cheapest pattern is proven to be the best.
    """
    if solver == "auto":
        solver = "branch-and-bound" if problem.resources else "unlimited"
    if solver == "unlimited":
        problem = replace(
            problem,
            resources=tuple(
                resource if resource.name.startswith("budget ") else resource._replace(limit=np.inf)
                for resource in problem.resources
            ),
        )
    known, large = _known(problem)
    limits = [resource.limit * (1.0 + _ROOM) for resource in problem.resources]
    problem = replace(
        problem,
        resources=tuple(
            Resource(item.name, limit, item.unit)
            for item, limit in zip(problem.resources, limits, strict=True)
        ),
    )
    seen = {**known, **_alone(problem, large)}
    first = greedy.solve(problem, seen, {item.name for item in large})
    if solver == "greedy":
        return Solution(solver=solver, termination="heuristic", gap=None, placed=first, known=known)
    return replace(_exact(problem, known, seen, first), solver=solver, known=known)


def _known(problem: Problem) -> tuple[dict[str, Patterns], list[Item]]:
    """Patterns by item, and the items that have too many."""
    known: dict[str, Patterns] = {}
    large: list[Item] = []
    for item in problem.items:
        listed = patterns(item)
        if listed is None:
            large.append(item)
        else:
            known[item.name] = listed
    return known, large


def _alone(problem: Problem, large: Sequence[Item]) -> dict[str, Patterns]:
    """Some of the cheapest plans of each large item; the first is the best where nothing runs short."""
    cheapest: dict[str, Patterns] = {}
    for item in large:
        counts: IntArray | None = None
        if near.can_list(item):
            prices = near.loaded(item, np.zeros(len(item.resources)))
            for above in (float(item.unit_costs.max()), 0.0):
                counts = near.near(item, prices, above)
                if counts is not None:
                    break
        if counts is None:
            counts = _written_out(problem, item, problem.time_limit_s / (2 * len(large)))
        cheapest[item.name] = priced(item, counts)
    return cheapest


def _written_out(problem: Problem, item: Item, limit_s: float) -> IntArray:
    """The best plan of one item alone within all resources, shape (1, J) or (0, J)."""
    part = exact.Component(
        replace(problem, items=(item,), policy="None"),
        item.resources,
        {},
        {item.name: nothing(item)},
        limit_s,
    ).solve()
    if part is None or part.placed[item.name].kind != "full":
        return np.zeros((0, len(item.rows)), dtype=np.int64)
    return np.array([part.placed[item.name].counts], dtype=np.int64)


def _exact(
    problem: Problem,
    known: Mapping[str, Patterns],
    seen: Mapping[str, Patterns],
    first: Mapping[str, Placed],
) -> Solution:
    parts, scarce = components(problem, known)
    placed: dict[str, Placed] = {item.name: nothing(item) for item in problem.items}
    gap: float | None = 0.0
    finished = answered = True
    for items in parts:
        own = {item.name: known[item.name] for item in items if item.name in known}
        cheapest = _cheapest(problem, items, seen, scarce)
        if cheapest is not None:
            placed.update(cheapest)
            continue
        limit = problem.time_limit_s * len(items) / len(problem.items)
        used = {index for item in items for index in item.resources}
        result = exact.Component(
            replace(problem, items=tuple(items)),
            [index for index in scarce if index in used],
            own,
            first,
            limit,
        ).solve()
        if result is None:
            answered = finished = False
            gap = None
            placed.update({item.name: first[item.name] for item in items})
            continue
        placed.update(result.placed)
        finished = finished and result.finished
        gap = None if gap is None or result.gap is None else max(gap, result.gap)
    termination: Termination = "optimal" if finished else "feasible" if answered else "fallback"
    if objective(problem, first) < objective(problem, placed):
        placed = dict(first)
        termination, gap = (termination, gap) if finished else ("fallback", None)
    return Solution(solver="", termination=termination, gap=gap, placed=placed)


def _cheapest(
    problem: Problem, items: Sequence[Item], known: Mapping[str, Patterns], scarce: Sequence[int]
) -> dict[str, Placed] | None:
    """Everyone's cheapest pattern, if all of them fit: nothing can be better."""
    if any(not len(known[item.name].prices) for item in items):
        return None
    free = np.array([resource.limit for resource in problem.resources])
    for item in items:
        free[list(item.resources)] -= known[item.name].usage[0]
    if any(free[index] < 0 for index in scarce):
        return None
    return {item.name: worth.placed(item, known[item.name].counts[0]) for item in items}


def components(
    problem: Problem, known: Mapping[str, Patterns]
) -> tuple[list[list[Item]], list[int]]:
    """Items that share no scarce resource with others, and the indices of the scarce resources."""
    demanded = np.zeros(len(problem.resources))
    for item in problem.items:
        patterns_ = known.get(item.name)
        if patterns_ is not None and patterns_.usage.size and problem.policy == "None":
            demanded[list(item.resources)] += patterns_.usage.max(axis=0)
        else:
            for rows in item.variants():
                demanded[list(item.resources)] += (item.uses[rows] * item.most[rows][:, None]).max(
                    axis=0
                )
    scarce = [
        index
        for index, resource in enumerate(problem.resources)
        if demanded[index] > resource.limit
    ]
    root = {index: index for index in scarce}

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    first: list[int | None] = []
    for item in problem.items:
        mine = [index for index in item.resources if index in root]
        for index in mine[1:]:
            root[find(index)] = find(mine[0])
        first.append(mine[0] if mine else None)
    groups: dict[tuple[str, int], list[Item]] = {}
    for place, (item, link) in enumerate(zip(problem.items, first, strict=True)):
        key = ("alone", place) if link is None else ("linked", find(link))
        groups.setdefault(key, []).append(item)
    return list(groups.values()), scarce
