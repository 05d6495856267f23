"""The best placement there is, with its proof: integer programs solved by HiGHS, one goal after another.

The goals are those of `optimizer.branch_and_bound`: for each priority, highest first, the most items served
in full; under a saturation policy partial service; then the least price. Items that share no scarce resource
are solved apart. Patterns that are in no better plan than the best known one are left out first (`pricing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optimizer.placement import near, worth
from optimizer.placement.gaps import STEP, gap_of, value_of
from optimizer.placement.patterns import Patterns, priced
from optimizer.placement.pricing import Bound, Pricing, Stage
from optimizer.placement.problem import FloatArray, Item, Placed, Problem, nothing
from optimizer.placement.program import Program, Terms

_INTEGRAL = 1e-6
_FINISHED = 0
_NODES = 300
_WIDER = (1e-4, 5e-4, 2e-3, np.inf)
_WIDER_OF_NUMBERS = (-1.0, 1e-4, 2e-3, 1e-2, np.inf)
"""Distances above the bound for numbers of items, per cent; below 0: the patterns that gave the bound."""
LISTED = 4_000
"""Patterns of one component that go into its program without asking which of them can matter."""


@dataclass(frozen=True, slots=True)
class Solved:
    """Placed items of one component; the gap is None where no bound is known."""

    placed: Mapping[str, Placed]
    gap: float | None
    finished: bool


def served_whole(items: Sequence[Item], known: Mapping[str, Placed]) -> set[int]:
    """Highest priorities of which a plan serves everyone in full."""
    short = [item.priority for item in items if known[item.name].kind != "full"]
    first = min(short, default=None)
    return {item.priority for item in items if first is None or item.priority < first}


class Component:
    """The program of items that share scarce resources.

    Args:
        problem: its items, with all resources.
        scarce: indices of the resources that can run short.
        known: patterns of the items that have few enough.
        feasible: a plan that keeps every limit.
        limit_s: time limit, seconds.

    """

    def __init__(
        self,
        problem: Problem,
        scarce: Sequence[int],
        known: Mapping[str, Patterns],
        feasible: Mapping[str, Placed],
        limit_s: float,
    ) -> None:
        self._problem = problem
        self._scarce = scarce
        self._known = known
        self._feasible = {item.name: feasible[item.name] for item in problem.items}
        self._limit = limit_s
        self._whole = served_whole(problem.items, feasible)

    def solve(self) -> Solved | None:
        """The best plan of the component; None when the time limit leaves none."""
        items = self._problem.items
        listed = all(item.name in self._known or near.can_list(item) for item in items)
        many = sum(len(patterns.prices) for patterns in self._known.values()) > LISTED
        if listed and self._scarce and (many or len(self._known) < len(items)):
            return self._priced()
        return self._listed(self._known, {}).solve()

    def _listed(
        self,
        known: Mapping[str, Patterns],
        floors: Mapping[int, int],
        only: Stage | None = None,
        nodes: int | None = None,
    ) -> _Listed:
        return _Listed(
            self._problem,
            self._scarce,
            known,
            whole=self._whole,
            floors=floors,
            limit_s=self._limit,
            only=only,
            nodes=nodes,
        )

    def _priced(self) -> Solved | None:
        """Stage by stage, with the patterns that can matter in each."""
        problem, items = self._problem, self._problem.items
        pricing = Pricing(items, self._scarce, problem.resources, self._known, self._whole)
        best: Mapping[str, Placed] = self._feasible
        floors: dict[int, int] = {}
        finished = True
        for priority in sorted({item.priority for item in items} - self._whole):
            stage = Stage(priority, dict(floors))
            reached = self._stage(pricing, stage, best)
            if reached is None:
                return self._cut_short(pricing)
            best = reached.placed
            finished = finished and reached.finished
            floors[priority] = sum(
                1 for item in items if item.priority == priority and best[item.name].kind == "full"
            )
        if floors and problem.policy != "None":
            return self._in_part(pricing, floors, best)
        final = self._stage(pricing, Stage(None, floors), best)
        if final is None:
            return self._cut_short(pricing)
        if finished and final.finished:
            return final
        return replace(
            final, gap=gap_of(self._problem, self._whole, pricing, final.placed), finished=False
        )

    def _stage(self, pricing: Pricing, stage: Stage, best: Mapping[str, Placed]) -> Solved | None:
        """The best plan of a stage; None where too many patterns matter or time runs out."""
        bound = pricing.bound(stage)
        if not np.isfinite(bound.value):
            return None
        value = value_of(self._problem.items, stage, best)
        slack = 1e-9 * max(abs(value), 1.0)
        step = 0.0 if stage.priority is None else STEP
        scale = max(abs(bound.value), 1.0) if stage.priority is None else 100.0
        gap: float | None = 0.0
        for share in _WIDER if stage.priority is None else _WIDER_OF_NUMBERS:
            if self._proven(stage, value, bound):
                return Solved(best, 0.0, finished=True)
            # First the patterns that cost next to nothing at the duals: the plan of them is mostly the best.
            full = value - bound.value - step + slack
            distance = min(share * scale, full)
            near_optimal = self._near(pricing, stage, bound, distance)
            if near_optimal is None:
                return None
            kept, complete = near_optimal
            part = self._listed(
                {
                    item.name: _with(item, kept[item.name], best[item.name])
                    for item in self._problem.items
                },
                stage.floors,
                stage,
                None if distance >= full else _NODES,
            ).solve()
            if part is None:
                if distance >= full:
                    break
                continue
            gap = part.gap
            if value_of(self._problem.items, stage, part.placed) < value - slack:
                best, value = part.placed, value_of(self._problem.items, stage, part.placed)
            if distance >= 0 and distance >= value - bound.value - step:
                if self._proven(stage, value, bound):
                    continue
                complete = complete and part.finished
                return Solved(best, gap if complete else None, finished=complete)
        return Solved(best, 0.0, finished=True) if self._proven(stage, value, bound) else None

    @staticmethod
    def _near(
        pricing: Pricing, stage: Stage, bound: Bound, distance: float
    ) -> tuple[Mapping[str, Patterns], bool] | None:
        """Patterns up to a distance above the bound; below 0 those that gave the bound."""
        if distance < 0:
            return pricing.few, False
        return pricing.within(stage, bound, distance)

    def _proven(self, stage: Stage, value: float, bound: Bound) -> bool:
        if stage.priority is not None:
            return value - bound.value < STEP
        return value - bound.value <= self._problem.gap * max(abs(value), 1.0)

    def _in_part(
        self, pricing: Pricing, floors: Mapping[int, int], best: Mapping[str, Placed]
    ) -> Solved | None:
        """Partial service, of the patterns that can be in a cheapest plan; without proof."""
        stage = Stage(None, floors)
        bound = pricing.bound(stage)
        near_optimal = pricing.within(stage, bound, max(abs(bound.value), 1.0) / 500.0)
        kept = pricing.table.lists if near_optimal is None else near_optimal[0]
        own = {
            item.name: _with(item, kept[item.name], best[item.name]) for item in self._problem.items
        }
        part = self._listed(own, floors).solve()
        return None if part is None else Solved(part.placed, None, finished=False)

    def _cut_short(self, pricing: Pricing) -> Solved | None:
        """The best plan of the listed patterns within the time limit, with its distance to the bound."""
        problem = self._problem
        own = {
            item.name: _with(item, pricing.table.lists[item.name], self._feasible[item.name])
            for item in problem.items
        }
        part = self._listed(own, {}).solve()
        if part is None:
            return None
        gap = gap_of(problem, self._whole, pricing, part.placed)
        return Solved(part.placed, gap, finished=False)


def _with(item: Item, patterns: Patterns, got: Placed) -> Patterns:
    """Patterns with that of a known plan."""
    if got.kind != "full":
        return patterns
    counts = np.concatenate([patterns.counts, np.array([got.counts], dtype=np.int64)])
    return priced(item, np.unique(counts, axis=0))


class _Listed:
    """The program of listed patterns, and of items that are written out.

    Args:
        problem: its items, with all resources.
        scarce: indices of the resources that can run short.
        known: patterns by item; an item without is written out.
        whole: priorities that are served whole.
        floors: items of other priorities that must be served in full at least.
        limit_s: time limit, seconds.
        only: the one stage to solve; None: all of them.
        nodes: nodes of the search at most; None: without end.

    """

    def __init__(
        self,
        problem: Problem,
        scarce: Sequence[int],
        known: Mapping[str, Patterns],
        *,
        whole: set[int],
        floors: Mapping[int, int],
        limit_s: float,
        only: Stage | None = None,
        nodes: int | None = None,
    ) -> None:
        self._problem = problem
        self._known = known
        self._whole = whole
        self._floors = floors
        self._limit = limit_s
        self._only = only
        self._nodes = nodes
        self._served: list[Terms] = []
        self._program = self._written(scarce)

    def _written(self, scarce: Sequence[int]) -> Program:
        problem = self._problem
        program = Program(len(problem.resources))
        partial = problem.policy != "None" and self._only is None
        for place, item in enumerate(problem.items):
            patterns = self._known.get(item.name)
            if patterns is None:
                full = program.add_blocks(place, item, partial=False)
            else:
                rows = np.arange(len(patterns.prices), dtype=np.int64)
                full = program.add_patterns(place, item, patterns, rows)
            must = item.priority in self._whole
            some = program.add_blocks(place, item, partial=True) if partial and not must else []
            if full or some:
                program.constrain([*full, *some], 1.0 if must else -np.inf, 1.0)
            self._served.append(full)
        for index in scarce:
            if program.used[index]:
                program.constrain(program.used[index], -np.inf, problem.resources[index].limit)
        for priority, floor in self._floors.items():
            program.constrain(self._of(priority), floor - 0.5, np.inf)
        return program

    def _of(self, priority: int) -> Terms:
        return [
            term
            for item, terms in zip(self._problem.items, self._served, strict=True)
            if item.priority == priority
            for term in terms
        ]

    def solve(self) -> Solved | None:
        """The best plan; None when the time limit leaves none."""
        if not self._program.size:
            return Solved(
                {item.name: nothing(item) for item in self._problem.items}, 0.0, finished=True
            )
        return self._solved(self._program)

    def _stages(self, program: Program) -> Iterator[tuple[FloatArray, float]]:
        """Goals to minimize, each with the step between its possible values (0: no such step)."""
        items, policy = self._problem.items, self._problem.policy
        priorities = sorted({item.priority for item in items})
        for priority in priorities:
            included = self._only is None or self._only.priority == priority
            if priority not in self._whole and priority not in self._floors and included:
                terms = self._of(priority)
                yield program.goal((column, -number) for column, number in terms), 1.0
        if self._only is not None and self._only.priority is not None:
            return
        blocks = program.columns.partial
        levels = [priorities] if policy == "RoundRobin" else [[item] for item in priorities]
        for level in levels:
            mine = [block for block in blocks if items[block.item].priority in level]
            if policy in ("PriorityRoundRobin", "RoundRobin"):
                yield program.goal((block.on, -1.0) for block in mine), 1.0
            yield program.goal((block.part, -1.0) for block in mine if block.part is not None), 0.0
        yield program.goal(enumerate(program.prices)), 0.0

    def _solved(self, program: Program) -> Solved | None:
        constraints = program.constraints()
        stages = [stage for stage in self._stages(program) if stage[0].any()]
        stages = stages or [(np.zeros(program.size), 0.0)]
        limit = self._limit / (len(stages) + 1)
        best: FloatArray | None = None
        gap: float | None = 0.0
        finished = True
        for index, (goal, step) in enumerate(stages):
            last = index == len(stages) - 1
            aim = self._problem.gap
            if step:
                aim = min(0.9 * step / max(float(np.abs(goal).sum()), 1.0), 1.0)
            result = program.solve(
                goal,
                constraints,
                limit_s=2 * limit if last else limit,
                gap=aim,
                nodes=self._nodes,
            )
            if result.x is None:
                gap, finished = None, False
                break
            best = np.asarray(result.x, dtype=np.float64)
            reached = float(goal @ best)
            finished = finished and result.status == _FINISHED
            distance = abs(reached - result.mip_dual_bound)
            if gap is not None and distance >= step:
                gap = max(gap, distance / max(abs(reached), 1.0))
            if not last:
                from scipy.optimize import LinearConstraint  # noqa: PLC0415 - as in `Program`

                slack = 0.5 * step if step else _INTEGRAL * max(abs(reached), 1.0)
                constraints = [
                    *constraints,
                    LinearConstraint(goal[None, :], -np.inf, reached + slack),
                ]
        if best is None:
            return None
        return Solved(self._placed(program, best), gap, finished)

    def _placed(self, program: Program, chosen: FloatArray) -> dict[str, Placed]:
        items = self._problem.items
        placed = {item.name: nothing(item) for item in items}
        for column, (place, row) in program.columns.patterns.items():
            if chosen[column] > 0.5:
                item = items[place]
                placed[item.name] = worth.placed(item, self._known[item.name].counts[row])
        for block in (*program.columns.full, *program.columns.partial):
            if chosen[block.on] > 0.5:
                item = items[block.item]
                counts = np.zeros(len(item.rows), dtype=np.int64)
                for at, column in block.rows.items():
                    counts[at] = round(chosen[column])
                placed[item.name] = worth.placed(item, counts)
        return placed
