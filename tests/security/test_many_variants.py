"""One tenant with thousands of variants: what is written for them delays no other tenant's targets."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import structlog

from adapter import logs
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.pod_scraper import ScrapeJob
from adapter.collector.windows.jobs import within_budget
from adapter.controller import reactions
from adapter.controller.cycle import early
from adapter.controller.live import turns
from adapter.controller.loop import DEBOUNCE_SECONDS, ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.planning import plan as plans
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.resources.watches import ClusterObjects
from adapter.store import TargetStore
from tests.adapter.controller.groups.test_ceilings import decision
from tests.adapter.controller.test_looks import LoopClock
from tests.adapter.resources.model_groups.test_forming import source
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, World, until
from tests.fakes.kubernetes_objects import VARIANTS

MANY = 200
"""Variants of the other tenant."""

WRITE_SECONDS = 2.0
"""Seconds that the API server takes for each write of a status of theirs: 50 s for all, eight at a time."""

CYCLE_SECONDS, ASKED, QUIET = 2.0, 1200, 100
"""Seconds that a reconcile cycle takes, changes of a tenant's object, one each half second, and how many of
them come between two of another tenant's."""

JOIN_SECONDS, CHANGES = 1.0, 80
"""Seconds that a join of all objects takes there, and changes of an object, one each half second."""

pytestmark = pytest.mark.virtual_time


def crowd(world: World) -> None:
    """Variants of another namespace whose scale targets do not exist."""
    for number in range(MANY):
        item = worlds.variant(f"b{number}")
        item["metadata"]["namespace"] = "team-b"
        world.api.put(VARIANTS, "variantautoscalings", item)


def late(method: str, path: str) -> float:
    """Seconds that a write is on its way."""
    theirs = method == "PATCH" and "/namespaces/team-b/" in path and path.endswith("/status")
    return WRITE_SECONDS if theirs else 0.0


async def test_the_next_cycle_does_not_wait_for_their_statuses(tmp_path: Path) -> None:
    """A target follows its load, and its status is written, while hundreds of statuses are on their way."""
    async with worlds.running(tmp_path) as world:
        loop = asyncio.get_running_loop()
        world.load["v"] = 60.0
        async with world.replica("a") as (_, way):
            await until(lambda: world.desired() == 2)
            way.late = late
            crowd(world)
            await until(lambda: written(world) > 0)
            asked_at = loop.time()
            world.load["v"] = 300.0
            await until(lambda: (world.desired() or 0) > 2)
            assert loop.time() - asked_at <= 15.0
            assert written(world) < MANY
            await until(lambda: written(world) == MANY)


async def test_who_changes_objects_without_end_leaves_time_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change of a pod's labels has all objects joined, which takes seconds of thousands of variants."""
    joins: list[float] = []
    join = ClusterObjects.inputs

    async def long(self: ClusterObjects) -> Inputs:
        await asyncio.sleep(JOIN_SECONDS)
        joins.append(asyncio.get_running_loop().time())
        return await join(self)

    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            monkeypatch.setattr(ClusterObjects, "inputs", long)
            for number in range(CHANGES):
                item = worlds.workload("other", 1)
                item["metadata"] |= {"namespace": "team-b", "labels": {"at": str(number)}}
                world.api.put(APPS, "deployments", item)
                await asyncio.sleep(0.5)
    assert 5 <= len(joins) <= 0.5 * CHANGES / (2.0 * JOIN_SECONDS)


@pytest.mark.parametrize("asking", [1, 8])
async def test_who_asks_for_cycles_without_end_leaves_time_to_others(asking: int) -> None:
    """Each change of an object starts a cycle early: one tenant's had the loop run without a rest for all."""
    begun: list[float] = []
    now = asyncio.get_running_loop().time

    async def planned(snapshot: fleet.Fleet) -> plans.Plan:
        begun.append(now())
        await asyncio.sleep(CYCLE_SECONDS)
        return plans.plan(snapshot)

    clock = LoopClock()
    async with aiohttp.ClientSession() as session:
        loop = ControlLoop(
            collector=Collector(session=session, clock=clock, settings=CollectionSettings()),
            store=TargetStore(), clock=clock, planner=planned, settings=LoopSettings(interval=60.0),
        )  # fmt: skip
        running = asyncio.create_task(loop.run())
        waited: list[float] = []
        for number in range(ASKED):
            changes = {f"b{index}": number for index in range(asking)}
            last = {"a": number // QUIET, **changes}
            if number % QUIET == 0:
                waited.append(now())
            loop.apply_inputs(Inputs(variants=tuple(written_as(*item) for item in last.items())))
            await asyncio.sleep(0.5)
        running.cancel()
    taken = CYCLE_SECONDS * len(begun)
    share = early.NAMESPACE_SHARE if asking == 1 else early.SHARE
    assert taken <= (share + 2.0 * CYCLE_SECONDS / 60.0) * ASKED / 2 + early.SECONDS
    # A cycle for others begins when the last one has ended and been paid for.
    late = [min(at for at in begun if at >= asked) - asked for asked in waited[1:]]
    assert max(late) <= (1.0 + 1.0 / early.SHARE) * CYCLE_SECONDS + 2.0 * DEBOUNCE_SECONDS


async def begun_by(asking: Iterable[str], namespaces: tuple[str, ...]) -> int:
    """Cycles that begin for requests of `asking`, whichever may have one, made all the time."""
    cycles, number = early.EarlyCycles(), 0
    cycles.serve(namespaces)
    now = asyncio.get_running_loop().time
    ends_at, each = now() + 300.0, itertools.cycle(asking)
    while now() < ends_at:
        cycles.request([next(each)])
        if await cycles.wait(0.1):
            number += 1
            asked = cycles.begin()
            await asyncio.sleep(CYCLE_SECONDS)
            cycles.took(CYCLE_SECONDS, asked)
        cycles.begin()
    return number


async def test_a_namespace_that_is_alone_has_the_time_of_all() -> None:
    """Its load rises for minutes: cycles that take time from nobody came at a quarter of it."""
    alone, beside = await begun_by("a", ("a",)), await begun_by("a", ("a", "b"))
    assert alone * CYCLE_SECONDS >= early.SHARE * 300.0
    assert beside * CYCLE_SECONDS <= early.NAMESPACE_SHARE * 300.0 + early.NAMESPACE_SECONDS + 2.0


async def test_a_tenant_that_changes_devices_too_leaves_time_to_others() -> None:
    """It took all of the time of early cycles: a quarter as itself, and that of prices and devices."""
    number = await begun_by(("a", early.EVERYBODY), ("a", "b"))
    shares = early.NAMESPACE_SHARE + early.EVERYBODYS_SHARE
    saved = early.NAMESPACE_SECONDS + early.EVERYBODYS_SECONDS
    assert shares < early.SHARE
    assert number * CYCLE_SECONDS <= shares * 300.0 + saved + 2.0 * CYCLE_SECONDS


@pytest.mark.parametrize("attackers", [2, 5])
async def test_a_tenant_with_several_namespaces_leaves_time_to_one_that_rarely_asks(
    attackers: int,
) -> None:
    """They spent the time of all, one after the other; another's cycle then began two cycles later."""
    cycles, now = early.EarlyCycles(), asyncio.get_running_loop().time
    theirs = [f"b{number}" for number in range(attackers)]
    cycles.serve(["a", *theirs])
    each, asked_at, waited = itertools.cycle(theirs), list[float](), list[float]()

    async def asks_rarely() -> None:
        for number in range(20):
            await asyncio.sleep(600.0 + number % 7)
            asked_at.append(now())
            cycles.request("a")

    asking = asyncio.create_task(asks_rarely())
    while not asking.done():
        cycles.request([next(each)])
        while not await cycles.wait(60.0):
            pass
        asked = cycles.begin()
        if "a" in asked:
            waited.append(now() - asked_at[-1])
        await asyncio.sleep(CYCLE_SECONDS)
        cycles.took(CYCLE_SECONDS, asked)
    assert len(waited) >= 19
    assert max(waited) <= CYCLE_SECONDS + 0.1


async def test_a_tenant_with_many_namespaces_has_a_bounded_time() -> None:
    """The reserve is bounded too, in all."""
    names = tuple(f"b{number}" for number in range(30))
    number = await begun_by(names, names)
    saved = early.SECONDS + early.RESERVE_SECONDS
    taken = (early.SHARE + early.RESERVE_SHARE) * 300.0 + saved + 2.0 * CYCLE_SECONDS
    assert early.SHARE * 300.0 <= number * CYCLE_SECONDS <= taken


async def test_what_rounding_leaves_of_a_wait_is_none() -> None:
    """A clock that does not pass so little had it wait for ever, without a pause."""
    looks = itertools.count()

    def standing() -> float:
        assert next(looks) < 100
        return 1e6

    cycles = early.EarlyCycles(standing)
    cycles.took(early.NAMESPACE_SECONDS + 1e-12, ["a"])
    cycles.request(["a"])
    assert await cycles.wait(10.0)


def written_as(namespace: str, number: int) -> VariantSource:
    """A variant with another bound each time."""
    return replace(source("v"), namespace=namespace, max_replicas=1 + number)


def written(world: World) -> int:
    """Statuses of the other tenant's variants."""
    items = world.api.objects[VARIANTS, "variantautoscalings"]
    return sum(namespace == "team-b" and "status" in item for (namespace, _), item in items.items())


async def test_namespaces_have_their_turns_and_the_newest_counts() -> None:
    """Each namespace has one after the other; no key is written twice at once, and the newest comes last."""
    order: list[str] = []
    writing: set[str] = set()

    def write(key: str, what: str = "") -> turns.Write:
        async def go() -> None:
            assert key not in writing
            writing.add(key)
            order.append(f"{key}{what}")
            await asyncio.sleep(1.0)
            writing.remove(key)

        return go

    writes = turns.FairWrites(2)
    many = {f"b/{number}": write(f"b/{number}") for number in range(20)}
    writes.replace({**many, "a/v": write("a/v")})
    await writes.wait(0.5)
    assert order == ["b/0", "a/v"]
    # A newer one of what is in flight waits for that, and takes no other's turn.
    writes.replace({"b/19": write("b/19"), "b/18": write("b/18"), "a/v": write("a/v", "'")})
    await writes.wait(1.0)
    assert order[2:] == ["b/18", "a/v'"]
    await writes.wait(10.0)
    assert order[4:] == ["b/19"]
    assert writes.waiting == 0


async def test_a_write_that_raises_ends_no_other() -> None:
    """The error is told to who waits next, once."""

    async def fails() -> None:
        raise ValueError("odd")

    done: list[int] = []

    async def works() -> None:
        done.append(1)

    writes = turns.FairWrites(1)
    writes.replace({"a/x": fails, "a/y": works})
    with pytest.raises(ValueError, match="odd"):
        await writes.wait()
    assert done == [1]
    await writes.wait()


def record(key: str) -> VariantRecord:
    """A variant with one pod, for which something was decided."""
    item = replace(source(key), endpoints=("http://10.0.0.1:8000/metrics",))
    return VariantRecord(state=VariantState(source=item, decision=decision("H100", 1)))


def test_scrapes_between_two_cycles_are_shared_by_namespaces() -> None:
    """A tenant whose many pods all show long queues, or who is first, leaves them to others."""
    many = [f"team-b/b{number}" for number in range(5000)]
    records = {key: record(key) for key in (*many, "team-c/busy", "team-d/quiet")}
    keys = reactions.watched(records, (*many[:4000], "team-c/busy"))
    assert keys[:2] == ("team-b/b0", "team-c/busy")
    assert "team-d/quiet" in keys
    jobs = [ScrapeJob(key=key, endpoint="http://10.0.0.1", model="m") for key in records]
    chosen = {job.key for job in within_budget(jobs, keys)}
    assert "team-c/busy" in chosen
    assert len(chosen) < len(many)


def test_of_too_many_of_one_namespace_the_oldest_are_left_out() -> None:
    """Events of thousands of variants take a bounded room, and nothing of another namespace's."""

    async def write() -> None:
        pass

    writes = turns.FairWrites(1)
    writes.add("a/v#0", write)
    for number in range(2 * turns.MOST_WAITING):
        writes.add(f"b/{number}#{number}", write)
    assert writes.waiting == 1 + turns.MOST_WAITING


@pytest.mark.parametrize(
    ("field", "theirs", "other"),
    [
        ("namespace", "team-b", "team-a"),
        ("object", ("team-b", "b{}"), ("team-a", "v")),
        ("object", "pod team-b/b{}", "pod team-a/v"),
        ("group", "team-b/b{}", "team-a/v"),
        ("service", "team-b/b{}", "team-a/v"),
    ],
)
def test_lines_that_name_a_namespace_otherwise_are_counted_by_it(
    field: str,
    theirs: str | tuple[str, ...],
    other: str | tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is odd about another namespace's one object is told beside a flood about a tenant's."""
    logs.configure("json")
    try:
        log = structlog.get_logger()
        for number in range(2 * logs.LINES_A_MINUTE):
            about = (
                theirs.format(number)
                if isinstance(theirs, str)
                else tuple(part.format(number) for part in theirs)
            )
            log.warning("odd", **{field: about})
        log.warning("odd", **{field: other})
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == logs.LINES_A_MINUTE + 1
    assert lines[-1][field] == (list(other) if isinstance(other, tuple) else other)


def test_lines_about_thousands_of_objects_do_not_fill_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one message and namespace so many a minute; those of others come, and the rest is counted."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    logs.configure("json")
    try:
        log = structlog.get_logger()
        for number in range(5000):
            log.warning("odd", variant=f"team-b/b{number}")
        log.warning("odd", variant="team-a/v")
        log.error("invalid", problem="ConfigMap system/prices: odd")
        now[0] = 60.0
        log.warning("odd", variant="team-b/last")
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    shown = [line.get("variant", "") for line in lines]
    assert sum(text.startswith("team-b/b") for text in shown) == logs.LINES_A_MINUTE
    assert "left out" in lines[logs.LINES_A_MINUTE - 1]["more"]
    assert shown[logs.LINES_A_MINUTE :] == ["team-a/v", "", "team-b/last"]
    assert lines[-1]["left_out"] == 5000 - logs.LINES_A_MINUTE


def test_a_line_about_thousands_of_objects_is_no_longer_than_a_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who removed 10,000 variants at once made a line of 2.5 MiB; a traceback keeps its error."""
    logs.configure("json")
    names = sorted(f"team-b/{'b' * 240}{number}" for number in range(10_000))
    structlog.get_logger().info("variants removed", variants=names)
    structlog.get_logger().error("failed", exception=f"{'b' * 10**6} ValueError")
    removed, failed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert removed["variants"] == [*names[: logs.MOST_ITEMS], "and 9936 more"]
    assert len(failed["exception"]) < logs.MOST_CHARACTERS + 100
    assert failed["exception"].endswith("ValueError")
