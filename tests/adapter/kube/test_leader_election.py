"""Never two leaders: clocks of their own, partitions, lost answers and slow work, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter.kube.leader_election import (
    Leadership,
    LeaseConflictError,
    LeaseRecord,
    LeaseTimes,
    LeaseUnavailableError,
)
from tests.fakes import virtual_time

TIMES = LeaseTimes(duration=15, deadline=10.0, retry=2.0)


@dataclass
class Cluster:
    """The Lease that all see, and who works when."""

    record: LeaseRecord | None = None
    version: int = 0
    working: set[str] = field(default_factory=set)
    overlaps: list[set[str]] = field(default_factory=list)
    log: list[tuple[float, str, str]] = field(default_factory=list)

    def enter(self, name: str) -> None:
        self.working.add(name)
        self.log.append((asyncio.get_running_loop().time(), name, "starts"))
        if len(self.working) > 1:
            self.overlaps.append(set(self.working))

    def leave(self, name: str) -> None:
        self.working.discard(name)
        self.log.append((asyncio.get_running_loop().time(), name, "ends"))

    def leaders(self) -> list[str]:
        return [name for _, name, what in self.log if what == "starts"]


class Link:
    """One replica's connection to the Lease: delayed, cut, or losing answers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.state = "up"
        self.delay = 0.01

    async def _there(self) -> None:
        await asyncio.sleep(self.delay)
        if self.state == "down":
            raise LeaseUnavailableError("cut")
        if self.state == "hangs":
            await asyncio.sleep(10_000)

    async def _back(self) -> None:
        await asyncio.sleep(self.delay)
        if self.state == "deaf":
            raise LeaseUnavailableError("answer lost")
        if self.state == "late":
            await asyncio.sleep(9.0)

    async def read(self) -> tuple[LeaseRecord, str] | None:
        await self._there()
        record = self.cluster.record
        lease = None if record is None else (record, str(self.cluster.version))
        await self._back()
        return lease

    async def create(self, record: LeaseRecord) -> str:
        await self._there()
        if self.cluster.record is not None:
            raise LeaseConflictError
        return await self._write(record)

    async def update(self, record: LeaseRecord, version: str) -> str:
        await self._there()
        if version != str(self.cluster.version):
            raise LeaseConflictError
        return await self._write(record)

    async def _write(self, record: LeaseRecord) -> str:
        self.cluster.record = record
        self.cluster.version += 1
        version = str(self.cluster.version)
        await self._back()
        return version


def replica(
    cluster: Cluster, name: str, *, cleanup: float = 0.0, skew: float = 0.0
) -> tuple[Link, asyncio.Task[None]]:
    """A replica that works while it leads, and takes `cleanup` seconds to end its work."""
    link = Link(cluster)
    leadership = Leadership(
        link,
        identity=name,
        times=TIMES,
        now=lambda: datetime.now(UTC) + timedelta(seconds=skew),
    )

    async def work() -> None:
        cluster.enter(name)
        try:
            await asyncio.sleep(100_000)
        finally:
            await asyncio.sleep(cleanup)
            cluster.leave(name)

    return link, asyncio.create_task(leadership.run(work))


async def ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_one_leads_and_the_next_follows_at_once() -> None:
    """A leader that ends in order gives the lease back: the other leads after a retry, not a duration."""

    async def main() -> None:
        cluster = Cluster()
        _, first = replica(cluster, "a")
        await asyncio.sleep(1)
        _, second = replica(cluster, "b")
        await asyncio.sleep(60)
        assert cluster.leaders() == ["a"]
        await ended(first)
        await asyncio.sleep(TIMES.retry + 0.5)
        assert cluster.leaders() == ["a", "b"]
        assert cluster.record is not None
        assert cluster.record.holder == "b"
        # Also after a release: writes are fenced by a number that never repeats.
        assert cluster.record.transitions == 1
        await ended(second)

    virtual_time.run(main())


def test_a_former_leader_keeps_its_own_number() -> None:
    """It has seen the next holder's Lease, and what it still sends is told apart by the number of its own."""

    async def main() -> None:
        cluster = Cluster()
        link = Link(cluster)
        former = Leadership(link, identity="a", times=TIMES)
        task = asyncio.create_task(former.run(lambda: asyncio.sleep(100_000)))
        await asyncio.sleep(1)
        link.state = "down"
        _, second = replica(cluster, "b")
        await asyncio.sleep(3 * TIMES.duration)
        link.state = "up"
        await asyncio.sleep(2 * TIMES.retry)
        assert (former.leader, former.leads) == ("b", False)
        assert cluster.record is not None
        assert (former.transitions, cluster.record.transitions) == (0, 1)
        await ended(task, second)

    virtual_time.run(main())


@pytest.mark.parametrize("state", ["down", "hangs", "deaf"])
def test_a_leader_that_is_cut_off_stops_before_another_starts(state: str) -> None:
    """Its work ends within the deadline; the other starts after the duration, and not before."""

    async def main() -> None:
        cluster = Cluster()
        link, first = replica(cluster, "a", cleanup=4.0)
        await asyncio.sleep(1)
        _, second = replica(cluster, "b", skew=-3600)
        await asyncio.sleep(29)
        link.state = state
        cut = asyncio.get_running_loop().time()
        await asyncio.sleep(100 if state != "deaf" else 30)
        assert cluster.overlaps == []
        ends = [at for at, name, what in cluster.log if (name, what) == ("a", "ends")]
        if state != "deaf":
            assert cluster.leaders() == ["a", "b"]
            (ended_at,) = ends
            assert ended_at - cut <= TIMES.deadline + 4.1
            assert cluster.log[-1][0] - cut >= TIMES.duration - TIMES.retry - 1
            assert cluster.log[-1][0] - cut <= TIMES.duration + 2 * TIMES.retry
        link.state = "up"
        await asyncio.sleep(60)
        assert cluster.overlaps == []
        await ended(first, second)

    virtual_time.run(main())


def test_a_leader_whose_process_is_killed_is_replaced() -> None:
    """Without a farewell the lease ends by itself, counted from what the others saw."""

    async def main() -> None:
        cluster = Cluster()
        link, first = replica(cluster, "a")
        await asyncio.sleep(1)
        _, second = replica(cluster, "b", skew=3600)
        await asyncio.sleep(10)
        link.state = "down"
        await ended(first)
        died = asyncio.get_running_loop().time()
        await asyncio.sleep(30)
        assert cluster.leaders() == ["a", "b"]
        assert cluster.log[-1][0] - died <= TIMES.duration + 2 * TIMES.retry
        await ended(second)

    virtual_time.run(main())


def test_a_renewal_is_one_request() -> None:
    """Ten renewals are ten writes; one that somebody else's write refuses is followed by a read."""

    async def scenario() -> None:
        cluster = Cluster()
        link, task = replica(cluster, "a")
        reads = 0
        read = link.read

        async def counted() -> tuple[LeaseRecord, str] | None:
            nonlocal reads
            reads += 1
            return await read()

        link.read = counted  # type: ignore[method-assign]
        await asyncio.sleep(10 * TIMES.retry)
        assert cluster.working == {"a"}
        assert (reads, cluster.version >= 9) == (1, True)
        cluster.version += 1  # a label that an administrator sets
        await asyncio.sleep(5 * TIMES.retry)
        assert (cluster.leaders(), reads) == (["a"], 2)
        await ended(task)

    virtual_time.run(scenario())


def test_an_outage_is_logged_once() -> None:
    """However often requests fail: one warning at the first, one message when they work again."""

    async def main() -> None:
        link, task = replica(Cluster(), "a")
        await asyncio.sleep(1)
        link.state = "down"
        await asyncio.sleep(60)
        link.state = "up"
        await asyncio.sleep(10)
        await ended(task)

    with structlog.testing.capture_logs() as logs:
        virtual_time.run(main())
    about = [entry["event"] for entry in logs if entry["event"].startswith("lease")]
    assert about == ["lease request failed; retrying", "lease requests work again"]


@pytest.mark.parametrize(
    ("state", "reason"), [("up", "the process ends"), ("down", "the Lease was not renewed in time")]
)
def test_why_a_leader_stops_is_logged(state: str, reason: str) -> None:
    """Whether it was told to, or could not go on."""

    async def main() -> None:
        link, task = replica(Cluster(), "a")
        await asyncio.sleep(1)
        link.state = state
        await asyncio.sleep(60)
        await ended(task)

    with structlog.testing.capture_logs() as logs:
        virtual_time.run(main())
    stops = [entry["reason"] for entry in logs if entry["event"] == "stopped leading"]
    assert stops == [reason]


def test_work_that_fails_gives_way() -> None:
    """A replica whose work raises gives the lease back and may lead again later."""

    async def main() -> None:
        cluster = Cluster()
        tries: list[str] = []

        async def broken() -> None:
            tries.append("a")
            raise RuntimeError("no")

        leadership = Leadership(Link(cluster), identity="a", times=TIMES)
        task = asyncio.create_task(leadership.run(broken))
        await asyncio.sleep(20)
        assert len(tries) > 2
        assert cluster.record is not None
        await ended(task)

    with structlog.testing.capture_logs() as logs:
        virtual_time.run(main())
    stops = {entry["reason"] for entry in logs if entry["event"] == "stopped leading"}
    assert stops == {"its work has ended"}


events = st.lists(
    st.tuples(
        st.floats(min_value=0.1, max_value=25.0),
        st.integers(0, 2),
        st.sampled_from(["up", "down", "hangs", "deaf", "late"]),
        st.floats(min_value=0.0, max_value=3.0),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(events, st.lists(st.floats(min_value=0.0, max_value=4.0), min_size=3, max_size=3))
def test_no_partition_makes_two_leaders(
    schedule: list[tuple[float, int, str, float]], cleanups: list[float]
) -> None:
    """Whatever is cut, delayed, lost or slow to end, at no time do two work; when all is well, one does."""

    async def main() -> Cluster:
        cluster = Cluster()
        pairs = [
            replica(cluster, name, cleanup=cleanup, skew=1000.0 * place)
            for place, (name, cleanup) in enumerate(zip("abc", cleanups, strict=True))
        ]
        for pause, place, state, delay in schedule:
            await asyncio.sleep(pause)
            pairs[place][0].state = state
            pairs[place][0].delay = delay
        for link, _ in pairs:
            link.state, link.delay = "up", 0.01
        await asyncio.sleep(60)
        assert len(cluster.working) == 1
        await ended(*(task for _, task in pairs))
        return cluster

    assert virtual_time.run(main()).overlaps == []


@pytest.mark.parametrize("values", [(15, 15.0, 2.0), (15, 10.0, 10.0), (15, 10.0, 0.0)])
def test_times_must_leave_room(values: tuple[int, float, float]) -> None:
    """Without room between deadline and duration there could be two leaders."""
    with pytest.raises(ValueError, match="retry < deadline < duration"):
        LeaseTimes(duration=values[0], deadline=values[1], retry=values[2])
