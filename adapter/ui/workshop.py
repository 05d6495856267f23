"""Plans for people, in a planning worker of their own: alternatives, capacity curves, and what-if.

The control loop's worker is not used, so nothing that a person asks for can delay a target or end the
process that makes it. One request is planned at a time, few wait, and the rate is limited; answers about a
variant are kept until the next plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from adapter import errors, tasks
from adapter.controller.reconciler import Planner
from adapter.planning import fleet as fleets
from adapter.planning import plan as planning
from adapter.planning import worker
from adapter.ui import scenarios
from adapter.ui.scenarios import Alternative, LastPlan, Scenario

WAITING = 4
"""Requests that may wait for the worker; of more, the caller is told to try again."""

BURST, PER_SECOND = 6.0, 0.5
"""What-if plans that may come at once, and how many more per second."""

IDLE_SECONDS = 120.0
"""Seconds without a request after which the worker process ends."""

MOST_ANALYSES = 64
"""Variants whose alternatives are kept."""


class BusyError(errors.AdapterError):
    """Too many requests for plans; try again in a few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An alternative and what is decided for it.

    Attributes:
        label: The change.
        decision: What is decided; None where it cannot be planned.
        problem: Why it cannot be planned; empty where it can.
        pinned: Whether the replicas were given, and only the latencies are an answer.

    """

    label: str
    decision: planning.Decision | None
    problem: str
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What one variant's decision depends on.

    Attributes:
        outcomes: Alternatives; the first is the variant as it is.
        curve: Requests per minute of one replica, its TTFT and its ITL in milliseconds.
        curve_problem: Why there is no curve; empty where there is one.
        accelerator: Accelerator of the replica of the curve.
        largest_rpm: Largest rate of one replica within the SLO targets; 0 where it is not known.
        group: Group of whose demand it has its part; empty where it is on its own.

    """

    outcomes: tuple[Outcome, ...]
    curve: tuple[tuple[float, float, float], ...]
    curve_problem: str
    accelerator: str
    largest_rpm: float
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two plans of a scenario: as it is, and with the changes."""

    scenario: Scenario
    before: planning.Plan
    after: planning.Plan


class Workshop:
    """Plans on request, from the last fleet of the control loop."""

    def __init__(
        self,
        last: LastPlan,
        *,
        planner: Planner | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a workshop whose worker starts with the first request.

        Args:
            last: The control loop's last plan.
            planner: Plans instead of a worker process.
            now: Monotonic seconds.

        """
        self._last = last
        self._now = now
        self._process = worker.PlanningWorker()
        self._planner = planner or self._process.plan
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._tokens, self._filled_at = BURST, now()
        self._used_at = now()
        self._analyses: dict[str, tuple[planning.Plan, Analysis]] = {}

    @property
    def fleet(self) -> fleets.Fleet | None:
        """Last fleet that the control loop planned; None where it planned none."""
        return self._last.fleet

    @property
    def devices(self) -> dict[str, int]:
        """Devices by type: those to plan with, or those that the last plan takes where nothing limits it."""
        known, plan = self._last.fleet, self._last.plan
        if known is None or plan is None:
            return {}
        taken = dict.fromkeys((item.device_type for item in known.accelerators), 0)
        for decision in plan.decisions.values():
            if decision.candidate.device_type in taken:
                taken[decision.candidate.device_type] += decision.candidate.demand
        return {**taken, **(known.capacity or {})}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End the worker process when it is idle, and in the end."""
        closing = asyncio.create_task(self._close_idle(), name="close idle planning worker")
        try:
            yield
        finally:
            await tasks.cancel(closing)
            await self._process.close()

    async def analyze(self, key: str) -> Analysis:
        """Compute the alternatives and the capacity curve of a variant that was planned.

        Raises:
            InputError: It was not in the last plan.
            BusyError: Too many requests wait.
            PlanningError: The worker gave no plan.

        """
        known, plan = self._last.fleet, self._last.plan
        if known is None or plan is None:
            raise errors.InputError(
                "this process has made no plan yet; only the leader plans, once per interval"
            )
        earlier = self._analyses.get(key)
        if earlier is not None and earlier[0] is plan:
            return earlier[1]
        variant = next((item for item in known.variants if item.name == key), None)
        decision = plan.decisions.get(key)
        if variant is None or decision is None:
            why = plan.set_aside.get(key, "without a profile the saturation rule decides")
            raise errors.InputError(f"the last plan has no model of this variant: {why}")
        analysis = await self._analyze(known, variant, decision)
        self._analyses.pop(key, None)
        while len(self._analyses) >= MOST_ANALYSES:
            self._analyses.pop(next(iter(self._analyses)))
        self._analyses[key] = (plan, analysis)
        return analysis

    async def _analyze(
        self, known: fleets.Fleet, variant: fleets.Variant, decision: planning.Decision
    ) -> Analysis:
        classes = {item.name: item for item in known.service_classes}
        targets = classes[variant.service_class].targets[variant.model]
        variant = scenarios.alone(known, variant, decision)
        chosen = decision.candidate
        accelerator = chosen.accelerator or variant.current.accelerator
        some = scenarios.alternatives(
            variant, targets, accelerator=accelerator, replicas=chosen.replicas
        )
        drawn: list[Alternative] = []
        largest, problem = chosen.max_rate_rpm, ""
        if not accelerator or largest <= 0:
            problem = "the model gives no largest load of one replica within the SLO targets"
        else:
            drawn = scenarios.curve(variant, accelerator, largest / 60.0)
        plan = await self._plan(scenarios.of_alternatives(known, [*some, *drawn]))
        outcomes = tuple(
            Outcome(
                label=item.label,
                decision=plan.decisions.get(str(place)),
                problem=plan.set_aside.get(str(place), ""),
                pinned=item.pinned,
            )
            for place, item in enumerate(some)
        )
        points = [
            (60.0 * item.variant.load.arrival_rate_rps, got.candidate.ttft_ms, got.candidate.itl_ms)
            for place, item in enumerate(drawn, start=len(some))
            if (got := plan.decisions.get(str(place))) is not None
        ]
        return Analysis(
            outcomes=outcomes,
            curve=tuple(points),
            curve_problem=problem,
            accelerator=accelerator,
            largest_rpm=largest,
            group=decision.group,
        )

    async def compare(self, scenario: Scenario) -> Comparison:
        """Plan the last fleet as it is and with the changes.

        Raises:
            InputError: There is no last fleet.
            BusyError: Too many requests wait, or came in a short time.
            PlanningError: The worker gave no plan.

        """
        known, before = self._last.fleet, self._last.plan
        if known is None or before is None:
            raise errors.InputError(
                "this process has made no plan yet; only the leader plans, once per interval"
            )
        self._take_token()
        after = await self._plan(scenarios.changed(known, scenario))
        return Comparison(scenario=scenario, before=before, after=after)

    def _take_token(self) -> None:
        now = self._now()
        self._tokens = min(self._tokens + PER_SECOND * (now - self._filled_at), BURST)
        self._filled_at = now
        if self._tokens < 1.0:
            raise BusyError("too many plans in a short time; try again in a few seconds")
        self._tokens -= 1.0

    async def _plan(self, snapshot: fleets.Fleet) -> planning.Plan:
        if self._waiting >= WAITING:
            raise BusyError("too many requests wait for a plan; try again in a few seconds")
        self._waiting += 1
        try:
            async with self._lock:
                self._used_at = self._now()
                try:
                    return await self._planner(snapshot)
                finally:
                    self._used_at = self._now()
        finally:
            self._waiting -= 1

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            if self._process.pid is None or self._now() - self._used_at < IDLE_SECONDS:
                continue
            async with self._lock:
                await self._process.close()
