"""The program under mixed load, as long as you like: memory and open files, and whether they are flat.

1,000 variants with two pods each, whose load changes all the time; HPA queries, `/metrics`, anonymous
requests, connections that come and go, ended watches, and annotations that are edited. A quantity is flat
where the medians of the second and of the last quarter differ by at most 10 % or 16 (MiB, files).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import programs
from programs import BrokenError, Cluster, Program

from tests.fakes.kubernetes_objects import VARIANTS

SAMPLES = 60
"""Rows of the curve; samples are taken at least as often, and every ten seconds."""

FLAGS = ("--interval=15s", "--scrape-interval=5s", "--window=15s", "--lease-duration=60s")
"""Of the program; a machine that does other work too has the time for rarer cycles only."""

START_SECONDS = 600.0
"""Most seconds until the first target, for a machine that does other work too."""

EDITED = 50
"""Variants whose annotations are edited: the others, one of which is queried, stay under load."""

MIB_PER_CHARACTER = 5.0
"""Of the bars."""


@dataclass(frozen=True)
class Sample:
    """What was measured at one time."""

    seconds: float
    server_mib: float
    worker_mib: float
    files: int


ROW = "{:>8}  {:>10}  {:>10}  {:>5}  {:>8}  {}"
HEAD = ("seconds", "server MiB", "worker MiB", "files", "answers", "")


class Load:
    """Everything that goes on around the program."""

    def __init__(self, cluster: Cluster, program: Program, names: list[str]) -> None:
        self._world = cluster.world
        self._cluster = cluster
        self._program = program
        self._names = names
        self._dice = random.Random(1)  # noqa: S311 - load, not secrets
        self._anonymous = programs.stranger(cluster.world)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    async def forever(self, pause: float, act: Callable[[], Awaitable[None]]) -> None:
        """Do something again and again, and count how often that works."""
        while True:
            try:
                async with asyncio.timeout(60.0):
                    await act()
            except (AssertionError, BrokenError, OSError, EOFError, aiohttp.ClientError) as error:
                self.failed[f"{act.__name__}: {type(error).__name__}"] += 1
            else:
                self.done[act.__name__] += 1
            await asyncio.sleep(pause)

    def acts(self) -> tuple[tuple[float, Callable[[], Awaitable[None]]], ...]:
        """What is done again and again, and seconds between."""
        return (
            (0.1, self.query),
            (0.2, self.change_load),
            (0.5, self.stranger),
            (1.0, self.edit),
            (2.0, self.page),
            (20.0, self.end_watches),
        )

    async def query(self) -> None:
        """The metric of one variant, on a new connection."""
        programs.require(await self._cluster.value(self._program), "no target")

    async def change_load(self) -> None:
        """Another load for one variant."""
        self._world.load[self._dice.choice(self._names)] = self._dice.uniform(0.0, 30.0)

    async def stranger(self) -> None:
        """An anonymous request to a path that nobody knows, and a connection that says nothing."""
        for tls in (self._anonymous, None):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._program.port, ssl=tls)
            if tls is not None:
                path = self._dice.randrange(10**9)
                writer.write(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await reader.readline()
            writer.close()

    async def edit(self) -> None:
        """An annotation that its reader refuses, or a good one, on one variant."""
        if len(self._names) == 1:
            return
        item = self._world.variant(self._dice.choice(self._names[1:][-EDITED:]))
        value = self._dice.choice(("9", "9" * 400, "-1", "http://["))
        item["metadata"]["annotations"] = {"llmd.ai/max-replicas": value}
        self._world.api.put(VARIANTS, "variantautoscalings", item)

    async def page(self) -> None:
        """The metrics of all variants, from loopback."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._program.metrics_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.read(-1)
        writer.close()

    async def end_watches(self) -> None:
        """End all watches, and let the history of the fake not grow without end."""
        self._world.api.compact()
        del self._world.api.requests[:]
        self._program.way.end_watches()


def _memory(process_id: int) -> float:
    with contextlib.suppress(OSError):
        return programs.resident_mib(process_id)
    return 0.0


async def _soak(variants: int, minutes: float, flags: list[str]) -> list[Sample]:
    async with programs.cluster() as cluster:
        names = ["v", *(f"v{number}" for number in range(1, variants))]
        for name in names[1:]:
            cluster.world.deploy(name, 2)
            cluster.world.load[name] = 6.0
        async with cluster.program("a", *FLAGS, *flags) as program:
            await cluster.serves(program, seconds=START_SECONDS)
            load = Load(cluster, program, names)
            running = [asyncio.create_task(load.forever(*act)) for act in load.acts()]
            samples = await _sampled(program, load, minutes * 60.0)
            for task in running:
                task.cancel()
            for ended in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended  # a part of the load had ended before
            for counts, what in ((load.done, "done"), (load.failed, "not answered")):
                print(f"{what}: {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}")
            print(f"logged: {program.said('became leader')} x became leader")
            programs.require(load.done["query"], "no query was answered")
            programs.require(
                not load.failed["query: BrokenError"], "a variant under load had no target"
            )
            return samples


async def _sampled(program: Program, load: Load, seconds: float) -> list[Sample]:
    """Samples until the end; prints a row for each part of the time as it passes."""
    samples: list[Sample] = []
    started = time.monotonic()
    pause = min(10.0, seconds / SAMPLES)
    rows = 0
    while (passed := time.monotonic() - started) < seconds:
        programs.require(program.process.returncode is None, f"it ended: {program.log[-1:]}")
        workers = sum(_memory(child) for child in program.children())
        sample = Sample(passed, program.memory_mib(), workers, program.descriptors())
        samples.append(sample)
        if passed >= rows * seconds / SAMPLES:
            rows += 1
            mib, work = f"{sample.server_mib:.1f}", f"{sample.worker_mib:.1f}"
            bar = "#" * round(sample.server_mib / MIB_PER_CHARACTER)
            answers = load.done["query"]
            print(ROW.format(f"{passed:.0f}", mib, work, sample.files, answers, bar), flush=True)
        await asyncio.sleep(pause)
    return samples


def flat(values: list[float], *, allowance: float) -> bool:
    """Whether the medians of the second and of the last quarter differ by at most 10 % or the allowance."""
    quarter = max(len(values) // 4, 1)
    before = statistics.median(values[quarter : 2 * quarter])
    after = statistics.median(values[-quarter:])
    return after - before <= max(0.1 * before, allowance)


def main() -> int:
    """Print the curve as it comes, what was done meanwhile, and whether it is flat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="duration. Default 60")
    parser.add_argument("--variants", type=int, default=1000, help="variants. Default 1000")
    parser.add_argument("flags", nargs="*", help="flags of serve after --, such as --interval=60s")
    args = parser.parse_args()
    samples: list[Sample] = []
    print(ROW.format(*HEAD).rstrip())
    try:
        samples = asyncio.run(_soak(args.variants, args.minutes, args.flags))
    except* BrokenError as group:
        print(f"BROKEN  {group.exceptions[0]}")
    if not samples:
        return 1
    verdicts = {
        "server memory": flat([sample.server_mib for sample in samples], allowance=16.0),
        "worker memory": flat([sample.worker_mib for sample in samples], allowance=16.0),
        "open files": flat([float(sample.files) for sample in samples], allowance=16.0),
    }
    for name, holds in verdicts.items():
        print(f"{'flat' if holds else 'GROWS':<6} {name}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
