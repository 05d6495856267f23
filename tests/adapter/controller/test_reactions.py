"""How soon the loop reacts: to queues, to a change of leader, and to what starts slowly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from adapter.collector.collector import Collector
from adapter.collector.model_servers import PodMetrics
from adapter.controller.loop import ControlLoop
from adapter.controller.reactions import WATCHED_PODS
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs
from adapter.resources.stored_status import Published
from adapter.resources.variant import VariantSource
from adapter.store import TargetStore
from analyzer.latency import LatencyParameters
from tests.fakes.virtual_time import ManualClock

KEY = "n/v"
TARGETS = fleet.Targets(itl_ms=24.0, ttft_ms=500.0)
PROFILE = fleet.Profile(
    accelerator="A100",
    max_batch=8,
    latency=LatencyParameters(alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1),
)


class Pods:
    """A loop with one variant, whose pods have served the same requests since long ago."""

    def __init__(self, session: aiohttp.ClientSession, *, replicas: int) -> None:
        self.clock = ManualClock()
        self.source = VariantSource(
            namespace="n", name="v", model="m", service_class="c", profiles=(PROFILE,),
            targets=TARGETS, accelerator="A100", replicas=replicas, spec_replicas=replicas,
            endpoints=tuple(f"sim://{number}" for number in range(replicas)),
            pods_known=True, startup_seconds=60.0,
        )  # fmt: skip
        settings = LoopSettings()
        self.loop = ControlLoop(
            collector=Collector(session=session, clock=self.clock, settings=settings.collection),
            store=TargetStore(),
            clock=self.clock,
            planner=self.plan,
            settings=settings,
        )
        self.finished = 1000.0
        self.heard: int | None = None
        self.apply()

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        return planning.plan(snapshot)

    def apply(self, **changes: object) -> None:
        """Use the variant with these changes."""
        self.source = replace(self.source, **changes)  # type: ignore[arg-type]  # fields by name
        level = fleet.ServiceClass(name="c", priority=1, targets={"m": self.source.targets})
        unit = fleet.Accelerator(name="A100", device_type="A100", unit_cost=40)
        self.loop.apply_inputs(
            Inputs(accelerators=(unit,), service_classes=(level,), variants=(self.source,))
        )

    def scrape(
        self, seconds: float, *, rps: float, waiting: float = 0.0, between: bool = False
    ) -> None:
        """All pods together served `rps` for that long; `waiting` are in the first one's queue."""
        self.clock.at += seconds
        self.finished += rps * seconds / len(self.source.endpoints)
        done = int(self.finished)
        for number, endpoint in enumerate(self.source.endpoints[: self.heard]):
            page = PodMetrics(
                finished=done, running=4.0, waiting=0.0 if number else waiting,
                prompt_tokens=(128.0 * done, done), generation_tokens=(178.0 * done, done),
                ttft=(0.1 * done, done), itl=(0.022 * 177 * done, 177 * done),
            )  # fmt: skip
            self.loop.collector.add(KEY, endpoint, page, now=self.clock.at, source="direct")
        self.loop.record_scrape(between=between)

    async def minutes(self, number: int, *, rps: float) -> None:
        """Scrape and decide for that long."""
        for _ in range(2 * number):
            self.scrape(15, rps=rps)
            self.scrape(15, rps=rps)
            await self.loop.reconcile()

    @property
    def sized_rps(self) -> float:
        """Requests per second that were sized for."""
        decision = self.loop.states[KEY].decision
        assert decision is not None
        return decision.arrival_rate_rps

    @property
    def desired(self) -> int:
        replicas = self.loop.states[KEY].desired
        assert replicas is not None
        return replicas


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


async def test_a_queue_starts_a_cycle(session: aiohttp.ClientSession) -> None:
    """It does where the rate has not moved, and only where it exceeds the queue that was decided for."""
    pods = Pods(session, replicas=2)
    await pods.minutes(4, rps=1.0)
    assert not pods.loop.cycle_requested
    pods.scrape(15, rps=1.0, waiting=12.0)
    assert pods.loop.cycle_requested
    await pods.loop.reconcile()
    pods.scrape(5, rps=1.0, waiting=12.0)
    assert not pods.loop.cycle_requested
    pods.scrape(5, rps=1.0, waiting=40.0)
    assert pods.loop.cycle_requested


async def test_a_queue_asks_for_what_serves_all_in_flight(session: aiohttp.ClientSession) -> None:
    """In one cycle, whatever the rate of the last minutes says."""
    pods = Pods(session, replicas=2)
    await pods.minutes(4, rps=1.0)
    before = pods.desired
    pods.scrape(15, rps=1.0, waiting=60.0)
    await pods.loop.reconcile()
    # A replica holds at most 8 requests: 68 in flight take 9 replicas or more.
    assert before <= 3
    assert pods.desired >= 9
    assert "backlog: " in pods.loop.states[KEY].reason


async def test_pods_that_queue_are_looked_at_more_often(session: aiohttp.ClientSession) -> None:
    """They are busy while something waits or the rate moves, and no longer."""
    pods = Pods(session, replicas=2)
    await pods.minutes(4, rps=1.0)
    assert not pods.loop.busy
    pods.scrape(15, rps=1.0, waiting=12.0)
    assert KEY in pods.loop.busy
    pods.scrape(15, rps=1.0 + 12.0 / 15.0)
    assert not pods.loop.busy
    pods.scrape(15, rps=4.0)
    assert KEY in pods.loop.busy


async def test_a_step_starts_a_cycle_within_five_seconds(session: aiohttp.ClientSession) -> None:
    """Before anything waits, and what it asks for serves most of it."""
    pods = Pods(session, replicas=3)
    await pods.minutes(4, rps=3.0)
    before = pods.desired
    pods.scrape(5, rps=3.0, between=True)
    assert not pods.loop.cycle_requested
    pods.scrape(5, rps=10.0, between=True)
    assert pods.loop.cycle_requested
    assert KEY in pods.loop.busy
    await pods.loop.reconcile()
    assert pods.desired >= 2 * before


async def test_a_rise_that_is_certain_in_half_a_minute_starts_a_cycle_then(
    session: aiohttp.ClientSession,
) -> None:
    """By half of its rate: 5 s and a scrape cycle show nothing certain, the windows of the rate do."""
    pods = Pods(session, replicas=3)
    await pods.minutes(4, rps=3.0)
    before = pods.sized_rps
    requested = []
    for number in range(6):
        pods.scrape(5, rps=4.2, between=number % 3 != 2)
        requested.append(pods.loop.cycle_requested)
    assert requested == [False] * 5 + [True]
    await pods.loop.reconcile()
    assert pods.sized_rps > 1.3 * before
    pods.scrape(5, rps=4.2, between=True)
    assert not pods.loop.cycle_requested


async def test_a_rise_beside_a_silent_pod_starts_no_cycle_at_each_look(
    session: aiohttp.ClientSession,
) -> None:
    """At the maximum a cycle only holds the target, and keeps what it was decided for."""
    pods = Pods(session, replicas=3)
    pods.apply(max_replicas=3)
    await pods.minutes(4, rps=4.0)
    pods.heard = 2
    await pods.minutes(4, rps=4.0)
    requested = 0
    for number in range(60):
        pods.scrape(5, rps=12.0, between=number % 3 != 2)
        requested += pods.loop.cycle_requested
        if pods.loop.cycle_requested or number % 6 == 5:
            await pods.loop.reconcile()
    assert pods.loop.states[KEY].outcome == "MetricsUnavailable"
    assert 1 <= requested <= 10


async def test_a_rise_that_cannot_be_decided_for_starts_no_cycle_at_each_look(
    session: aiohttp.ClientSession,
) -> None:
    """A variant whose objects are broken keeps its decision; a cycle is one of all variants."""
    pods = Pods(session, replicas=3)
    await pods.minutes(4, rps=3.0)
    before = pods.desired
    pods.apply(held="its spec cannot be read")
    await pods.loop.reconcile()
    for _ in range(6):
        pods.scrape(5, rps=10.0, between=True)
        assert not pods.loop.cycle_requested
    pods.scrape(5, rps=10.0)
    await pods.loop.reconcile()
    assert pods.desired == before
    pods.apply(held="")
    await pods.loop.reconcile()
    assert pods.desired >= 2 * before


async def test_a_queue_of_a_moment_asks_for_nothing(session: aiohttp.ClientSession) -> None:
    """A look between two scrape cycles sees a batch that has just come; the same in a cycle is a queue."""
    pods = Pods(session, replicas=2)
    await pods.minutes(4, rps=1.0)
    before = pods.desired
    pods.scrape(5, rps=1.0, waiting=12.0, between=True)
    assert not pods.loop.cycle_requested
    assert not pods.loop.busy
    await pods.loop.reconcile()
    assert pods.desired == before
    assert "backlog: " not in pods.loop.states[KEY].reason
    pods.scrape(10, rps=1.0, waiting=12.0)
    await pods.loop.reconcile()
    assert "backlog: " in pods.loop.states[KEY].reason


async def test_few_pods_are_scraped_between_the_cycles(session: aiohttp.ClientSession) -> None:
    """From the first decision on; the budget is for all variants that nothing happens to."""
    pods = Pods(session, replicas=3)
    pods.scrape(15, rps=1.0)
    assert not pods.loop.watched
    await pods.minutes(4, rps=1.0)
    assert not pods.loop.busy
    assert KEY in pods.loop.watched
    many = WATCHED_PODS + 1
    pods.apply(replicas=many, endpoints=tuple(f"sim://{number}" for number in range(many)))
    assert not pods.loop.watched


async def test_the_first_cycles_lower_nothing(session: aiohttp.ClientSession) -> None:
    """What runs at the start stays for a window of two start-ups, however little is to do."""
    pods = Pods(session, replicas=7)
    await pods.minutes(2, rps=0.5)
    assert pods.desired == 7
    await pods.minutes(1, rps=0.5)
    assert pods.desired < 7


async def test_a_leader_that_comes_back_lowers_nothing(session: aiohttp.ClientSession) -> None:
    """What it recommended when it led before is no reason to take away what was ordered since."""
    pods = Pods(session, replicas=2)
    await pods.minutes(4, rps=0.5)
    assert pods.desired < 7
    pods.loop.stop_leading()
    decided = Published(replicas=7, accelerator="A100", decided_at=pods.clock.time())
    pods.apply(replicas=7, spec_replicas=7, published=decided)
    pods.loop.start_leading()
    await pods.minutes(1, rps=0.5)
    assert pods.desired == 7


async def test_a_new_load_has_room_where_replicas_start_slowly(
    session: aiohttp.ClientSession,
) -> None:
    """Not one that another leader has planned for: a restart of the adapter raises nothing."""
    pods, planned = Pods(session, replicas=4), Pods(session, replicas=4)
    decided = Published(replicas=4, accelerator="A100", decided_at=planned.clock.time())
    planned.apply(startup_seconds=600.0, published=decided)
    pods.apply(startup_seconds=600.0)
    await pods.minutes(2, rps=4.0)
    await planned.minutes(2, rps=4.0)
    assert planned.sized_rps == pytest.approx(4.0 * 1.03, rel=0.01)
    # These targets bound means: one standard deviation, 0.1 in ten minutes, of which 390 s count.
    assert pods.sized_rps == pytest.approx(4.0 * (1.0 + 0.1 * (390 / 600) ** 0.5), rel=0.01)
    assert "room for a rise of" in pods.loop.states[KEY].reason


async def test_a_load_is_new_once(session: aiohttp.ClientSession) -> None:
    """What it joins later, such as a group, is none that nobody knows, though it had no target at first."""
    pods = Pods(session, replicas=4)
    await pods.minutes(2, rps=4.0)
    assert pods.loop._reconciler.records[KEY].new
    await pods.minutes(12, rps=4.0)
    assert not pods.loop._reconciler.records[KEY].new


async def test_replicas_that_start_slowly_are_given_back_late(
    session: aiohttp.ClientSession,
) -> None:
    """After one start-up where the load has fallen far, and after twice that what one replica more is."""
    pods = Pods(session, replicas=2)
    pods.apply(startup_seconds=180.0)
    await pods.minutes(5, rps=6.0)
    high = pods.desired
    await pods.minutes(2, rps=0.5)
    assert pods.desired == high
    await pods.minutes(3, rps=0.5)
    assert pods.desired < high
    pods = Pods(session, replicas=2)
    pods.apply(startup_seconds=180.0)
    await pods.minutes(5, rps=6.0)
    await pods.minutes(5, rps=4.5)
    assert pods.desired == high
    await pods.minutes(5, rps=4.5)
    assert pods.desired == high - 1


async def test_requests_that_the_model_expects_to_wait_are_no_queue(
    session: aiohttp.ClientSession,
) -> None:
    """Prompts of 0.62 s each: some wait at any moment, and the pods are not busy by that."""
    steps = LatencyParameters(alpha_ms=20.58, beta_ms=0.41, gamma_ms=620.0, delta_ms=0.0)
    slow = replace(PROFILE, latency=steps)
    pods = Pods(session, replicas=4)
    pods.apply(profiles=(slow,), targets=fleet.Targets(itl_ms=200.0, ttft_ms=5000.0))
    await pods.minutes(4, rps=4.0)
    decision = pods.loop.states[KEY].decision
    assert decision is not None
    expected = 4.0 * decision.candidate.ttft_ms / 1000.0
    assert expected > 2 * len(pods.source.endpoints)
    pods.scrape(15, rps=4.0, waiting=expected)
    assert not pods.loop.busy
    await pods.loop.reconcile()
    assert "backlog: " not in pods.loop.states[KEY].reason
