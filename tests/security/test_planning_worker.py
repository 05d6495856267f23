"""The planning worker: one variant, or the worker itself, must not keep the others from being planned."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from adapter.planning import fleet
from adapter.planning.worker import FIRST_LATE_SECONDS, QUARANTINE_SECONDS, PlanningWorker
from adapter.planning.worker_child import (
    LONGEST_PAUSE_SECONDS,
    PlanningError,
    WorkerBrokenError,
)
from analyzer.latency import LatencyParameters

HANG_SECONDS = 300.0

STUB = """
import sys, time
from adapter.planning import worker_process
planned = worker_process.planning.plan

def plan(snapshot):
    for variant in snapshot.variants:
        if "slow" in variant.name:
            time.sleep(3600)
        if "bad" in variant.name:
            raise OverflowError("too large")
    return planned(snapshot)

worker_process.planning.plan = plan
worker_process.main()
"""
"""A worker in which sizing some variants never ends, or raises what nobody foresaw."""

STUB_BUSY = """
import sys, time
from adapter.planning import worker_process
planned = worker_process.planning.plan

def plan(snapshot):
    if "scipy.special" not in sys.modules:
        time.sleep(3600)
    return planned(snapshot)

worker_process.planning.plan = plan
worker_process.main()
"""
"""A worker whose first plan would load libraries for as long as its time."""


def variant(name: str, max_batch: int = 8) -> fleet.Variant:
    profile = fleet.Profile(
        accelerator="A",
        max_batch=max_batch,
        latency=LatencyParameters(alpha_ms=20.0, beta_ms=0.4, gamma_ms=0.0, delta_ms=0.0),
    )
    return fleet.Variant(
        name=f"n/{name}",
        model="m",
        service_class="c",
        profiles=(profile,),
        load=fleet.Load(arrival_rate_rps=1.0, input_tokens=50.0, output_tokens=100.0),
        current=fleet.CurrentAllocation(accelerator="A", replicas=1),
    )


def of(*names: str, max_batch: int = 8) -> fleet.Fleet:
    return fleet.Fleet(
        accelerators=(fleet.Accelerator(name="A", device_type="A", unit_cost=1.0),),
        service_classes=(
            fleet.ServiceClass(name="c", priority=1, targets={"m": fleet.Targets(itl_ms=50.0)}),
        ),
        variants=tuple(variant(name, max_batch) for name in names),
    )


@contextlib.asynccontextmanager
async def worker(stub: str = "", **options: Any) -> AsyncIterator[PlanningWorker]:
    if stub:
        options["command"] = (sys.executable, "-P", "-c", stub)
    planner = PlanningWorker(**options)
    try:
        async with asyncio.timeout(HANG_SECONDS):
            yield planner
    finally:
        await planner.close()


async def test_who_cannot_be_planned_is_set_aside() -> None:
    """A variant that never ends and one that raises are named; all others are planned in the end."""
    names, good = ["a", "slow", "b", "bad"], {"n/a", "n/b"}
    passed = 0.0
    async with worker(
        STUB, deadline_seconds=10.0, now=lambda: time.monotonic() + passed
    ) as planner:
        answer = await planner.plan(of(*names))
        while answer.decisions.keys() != good or len(answer.set_aside) > 2:
            if any("took longer" in answer.set_aside.get(name, "") for name in good):
                # On a busy machine others may have been late too: they are tried again later.
                passed += QUARANTINE_SECONDS
            answer = await planner.plan(of(*names))
        assert "took longer than" in answer.set_aside["n/slow"]
        assert "OverflowError: too large" in answer.set_aside["n/bad"]
        pid = planner.pid
        again = await planner.plan(of(*names))
        assert again.decisions.keys() == good
        assert again.set_aside.keys() == {"n/slow", "n/bad"}
        assert planner.pid == pid  # what is set aside costs nothing any more


async def test_who_was_late_is_tried_again_soon_and_then_ever_later() -> None:
    """A busy machine makes anyone late: half a minute at first, doubled up to the most."""
    passed = 0.0
    async with worker(STUB, deadline_seconds=10.0, now=lambda: passed) as planner:

        async def tried() -> bool:
            """Whether one more cycle gives it to a worker."""
            with structlog.testing.capture_logs() as logged:
                answer = await planner.plan(of("slow"))
            assert answer.set_aside.keys() == {"n/slow"}
            return any("set aside" in item["event"] for item in logged)

        assert await tried()
        waits = []
        for _ in range(2):
            waits.append(0.0)
            while not await tried():
                passed += FIRST_LATE_SECONDS / 2
                waits[-1] += FIRST_LATE_SECONDS / 2
        assert waits == [FIRST_LATE_SECONDS, 2 * FIRST_LATE_SECONDS]


async def test_a_dead_worker_is_replaced_within_the_plan() -> None:
    """One that was killed between two plans is started again, and nobody is set aside."""
    async with worker(deadline_seconds=20.0) as planner:
        await planner.plan(of("a"))
        pid = planner.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        answer = await planner.plan(of("a", "b"))
        assert answer.decisions.keys() == {"n/a", "n/b"}
        assert planner.pid != pid


async def test_a_stopped_worker_is_replaced() -> None:
    """One that stands still misses its deadline: the fleet is planned by another within it."""
    async with worker(deadline_seconds=16.0) as planner:
        await planner.plan(of("a"))
        pid = planner.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        answer = await planner.plan(of("a", "b"))
        assert answer.decisions.keys() == {"n/a", "n/b"}
        assert _ended(pid)


async def test_what_a_first_plan_loads_makes_no_second_worker_late() -> None:
    """One that was late, as on a busy machine, is followed by one that is ready when all is loaded."""
    async with worker(STUB_BUSY, deadline_seconds=16.0) as planner:
        answer = await planner.plan(of("a"))
        assert answer.decisions.keys() == {"n/a"}
        assert not answer.set_aside


async def test_a_plan_that_was_cancelled_leaves_no_worker_behind() -> None:
    """The end of the server waits for no plan."""
    async with worker(STUB, deadline_seconds=3600.0) as planner:
        await planner.plan(of("a"))
        pid = planner.pid
        task = asyncio.create_task(planner.plan(of("slow")))
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert _ended(pid)


async def test_a_worker_that_cannot_start_is_an_error() -> None:
    """Where not even an empty plan is possible the cycle fails, and says so."""
    async with worker("raise SystemExit(3)") as planner:
        with pytest.raises(PlanningError, match="planning worker"):
            await planner.plan(of("a"))


BROKEN = """
import os, pathlib, sys
from adapter.planning import worker_process

folder = pathlib.Path({folder!r})
with (folder / "starts").open("a") as starts:
    starts.write("x")
if (folder / "no start").exists():
    raise SystemExit(3)
planned = worker_process.planning.plan

def plan(snapshot):
    if (folder / "no plan").exists():
        os.kill(os.getpid(), 9)
    return planned(snapshot)

worker_process.planning.plan = plan
worker_process.main()
"""
"""A worker that does not start, or is killed at every plan, while a file says so."""


@pytest.mark.parametrize("how", ["no start", "no plan"])
async def test_a_worker_in_a_crash_loop_is_started_ever_more_seldom(
    how: str, tmp_path: Path
) -> None:
    """However often a plan is asked for; no variant is blamed, and all are planned once it works again."""
    fault, starts = tmp_path / how, tmp_path / "starts"
    fault.touch()
    passed = 0.0
    async with worker(BROKEN.format(folder=str(tmp_path)), now=lambda: passed) as planner:
        for _ in range(30):
            with pytest.raises(WorkerBrokenError, match="planning worker"):
                await planner.plan(of("a", "b"))
        # One fleet, its halves, and nothing at all, are tried before the worker is known to be broken.
        first = len(starts.read_text())
        assert first <= 5
        for _ in range(120):
            passed += 1.0
            with pytest.raises(WorkerBrokenError):
                await planner.plan(of("a", "b"))
        assert len(starts.read_text()) - first <= 10
        fault.unlink()
        passed += LONGEST_PAUSE_SECONDS
        answer = await planner.plan(of("a", "b"))
        assert answer.decisions.keys() == {"n/a", "n/b"}
        assert not answer.set_aside


def test_the_worker_goes_with_its_parent() -> None:
    """A parent that is killed, without a chance to say goodbye, leaves no process behind."""
    program = (
        "import asyncio\n"
        "from adapter.planning.worker import PlanningWorker\n"
        "from tests.security.test_planning_worker import STUB, of\n"
        "import sys\n"
        "async def main():\n"
        "    planner = PlanningWorker(command=(sys.executable, '-P', '-c', STUB))\n"
        "    await planner.plan(of('a'))\n"
        "    print(planner.pid, flush=True)\n"
        "    await planner.plan(of('slow'))\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
        parent.stdout.read()
    for _ in range(1000):
        if _ended(pid):
            return
        signal.sigtimedwait([], 0.05)
    raise AssertionError("the worker outlived its parent")


def _ended(pid: int | None) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


async def test_the_largest_batch_is_planned_in_time() -> None:
    """Ten variants of the largest batch that is accepted, which planning scales up by lengths no further."""
    async with worker(deadline_seconds=20.0) as planner:
        names = [f"v{number}" for number in range(10)]
        answer = await planner.plan(of(*names, max_batch=fleet.LARGEST_BATCH))
        assert len(answer.decisions) == 10
