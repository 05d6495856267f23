"""What a follower serves between two joins of the objects: statuses and replicas that others write."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from adapter.collector.collector import Collector
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.kube.scale import Reference
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs
from adapter.resources.stored_status import Published
from adapter.resources.variant import VariantSource
from adapter.store import CURRENT, DESIRED, RATIO, TargetStore
from tests.fakes.virtual_time import ManualClock

TARGET = ("n", Reference(name="v"))
SECONDS = 300.0
"""For which a target is served."""


async def plan(snapshot: fleet.Fleet) -> planning.Plan:
    return planning.plan(snapshot)


class Follower:
    """A loop that follows another replica, with one variant of two replicas."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.clock, self.store = ManualClock(), TargetStore()
        settings = LoopSettings(time_to_live=SECONDS)
        self.loop = ControlLoop(
            collector=Collector(session=session, clock=self.clock, settings=settings.collection),
            store=self.store, clock=self.clock, planner=plan, settings=settings, leading=False,
        )  # fmt: skip
        self.source = VariantSource(
            namespace="n", name="v", model="m", service_class="c", profiles=(),
            targets=fleet.Targets(itl_ms=24.0), accelerator="A100", endpoints=(),
            replicas=2, spec_replicas=2, reference=TARGET[1],
            published=Published(accelerator="A100", replicas=4, decided_at=1000.0),
        )  # fmt: skip
        self.join()

    def join(self) -> None:
        self.loop.apply_inputs(Inputs(variants=(self.source,)))

    def served(self, metric: str) -> str | None:
        items = self.store.answer("n", metric, None, now=self.clock.at)
        return json.loads(items[0].encoded)["value"] if items else None


@pytest.fixture
async def follower() -> AsyncIterator[Follower]:
    async with aiohttp.ClientSession() as session:
        yield Follower(session)


async def test_new_replicas_change_what_follows_from_them(follower: Follower) -> None:
    """The count and the ratio at once; the target and its end stay."""
    assert (follower.served(DESIRED), follower.served(RATIO)) == ("4", "2")
    assert follower.loop.live.follow_scaled({TARGET: ((2, 2), (2, 4))})
    assert (follower.served(CURRENT), follower.served(RATIO)) == ("2", "2")
    assert follower.loop.live.follow_scaled({TARGET: ((2, 4), (4, 4))})
    assert (follower.served(CURRENT), follower.served(RATIO)) == ("4", "1")
    follower.clock.at += SECONDS - 1
    assert follower.served(DESIRED) == "4"
    follower.clock.at += 1
    assert follower.served(DESIRED) is None


async def test_a_target_that_was_bounded_by_few_replicas_rises_with_them(
    follower: Follower,
) -> None:
    """Without an upper bound it is at most twice the replicas, or four more."""
    status = Published(accelerator="A100", replicas=20, decided_at=1001.0)
    follower.loop.live.follow_statuses({"n/v": (status, "")})
    assert follower.served(DESIRED) == "6"
    assert follower.loop.live.follow_scaled({TARGET: ((2, 2), (2, 12))})
    assert follower.served(DESIRED) == "20"


async def test_replicas_of_another_origin_need_a_join(follower: Follower) -> None:
    """An annotation may count other replicas than the Deployment; a leader joins its pods too."""
    follower.source = replace(follower.source, replicas=7)
    follower.join()
    assert not follower.loop.live.follow_scaled({TARGET: ((2, 2), (3, 3))})
    assert follower.served(CURRENT) == "7"
    # What was joined meanwhile, and what is no variant's, is nothing new.
    assert follower.loop.live.follow_scaled({TARGET: ((2, 2), (7, 2))})
    assert follower.loop.live.follow_scaled({("n", Reference(name="w")): ((2, 2), (3, 3))})
    follower.loop.start_leading()
    assert not follower.loop.live.follow_scaled({TARGET: ((7, 2), (7, 3))})


async def test_a_join_without_changes_leaves_everything(follower: Follower) -> None:
    """Nobody is told of it; a target that has ended is withdrawn, and the state says so."""
    before = follower.loop.states["n/v"]
    told = follower.store.changes._event
    follower.join()
    assert follower.loop.states["n/v"] is before
    assert not told.is_set()
    follower.loop.live.withdraw_ended()
    assert follower.loop.states["n/v"] is before
    follower.clock.at += SECONDS
    follower.join()
    assert follower.loop.states["n/v"].desired is None


async def test_an_ended_target_is_withdrawn_without_a_join(follower: Follower) -> None:
    """Its state says so, as at a join."""
    follower.clock.at += SECONDS
    follower.loop.live.withdraw_ended()
    state = follower.loop.states["n/v"]
    assert state.desired is None
    assert state.problem == "its status holds no valid target"
