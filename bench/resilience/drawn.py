"""Faulty pages drawn by chance: one or two inputs, at some pods; exit status 1 where a target moved.

The tables of `inputs.py` have each fault at fixed numbers. Here they are drawn: counters that run ahead, lag
or go back without a start, gauges with requests that are not there, crash loops, restarts behind a proxy that
writes a start of its own, containers that start again with the status of their pod, alone and with a counter
that is wrong from then on. The load stays the same, so the target must. Some draws may be true: fewer or more
tokens a request where nothing else on the page counts them.

    python -P bench/resilience/drawn.py --seed 1 --draws 60
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import math
import operator
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

from emulator.demo import scenario
from tests.adapter.controller import chaos_faults as faults
from tests.adapter.controller import chaos_matrix as chaos
from tests.adapter.controller.chaos_servers import PER_SECOND, RUNNING, SERVERS, Page, Server

ORIGINS: tuple[chaos.Origin, ...] = ("direct", "prometheus")
STARTED = "process_start_time_seconds"

PageOf = Callable[[float, float], Page | None]
StartOf = Callable[[float, float], float | None]


class Drawn(NamedTuple):
    """Fault, input, page of a pod that has it, and the start of its container by its status, as of a case."""

    fault: str
    what: str
    page: PageOf
    restarted: StartOf | None = None


def _counters(server: Server) -> list[str]:
    """Inputs that only grow and of which another one on the page says how fast."""
    return [what for what in server.inputs if server.counters_of(what)]


def _together(one: PageOf, other: PageOf, server: Server) -> PageOf:
    """Both faults at once: what the second changes of the steady page, on the page of the first."""

    def page(at: float, since: float) -> Page | None:
        first, second, steady = one(at, since), other(at, since), server.steady(at)
        if first is None or second is None:
            return None
        return {n: second.get(n, v) if second.get(n) != steady[n] else v for n, v in first.items()}

    return page


def _scaled(server: Server, draw: random.Random) -> Drawn:
    """A counter that runs ahead or lags since the fault began."""
    what = draw.choice(_counters(server))
    factor = math.exp(draw.uniform(math.log(0.3), math.log(4.0)))
    if 0.85 < factor < 1.15:
        factor = 1.3
    page = faults.Faults(server).moved(
        server.counters_of(what), lambda value, before: before + factor * (value - before)
    )
    return Drawn(f"x{factor:.2f}", what, page)


def _more(server: Server, draw: random.Random) -> Drawn:
    """A gauge with requests that are not there."""
    what = draw.choice(server.gauges)
    more = float(draw.choice((3, 4, 6, 9, 14, 30, 80, 300)))
    page = faults.Faults(server).changed(server.inputs[what], partial(operator.add, more))
    return Drawn(f"+{more:.0f}", what, page)


def _back(server: Server, draw: random.Random) -> Drawn:
    """Counters that go back to what they were some time ago, once, for a while, or again and again."""
    everything = tuple(name for what in server.inputs for name in server.counters_of(what))
    what = draw.choice(("", "", *_counters(server)))
    names = server.counters_of(what) if what else everything
    seconds, every = draw.uniform(15.0, 118.0), draw.choice((0.0, 10.0, 20.0, 30.0, 50.0))
    share = draw.choice((draw.uniform(0.05, 0.9), draw.uniform(0.9, 1.0)))

    def page(at: float, since: float) -> Page:
        steady, before = server.steady(at), server.steady(since)
        again = every and (at - since) // every % 2
        older = server.steady(max(at - seconds, 0.0))
        back = older if draw_older else {n: steady[n] - share * before[n] for n in names}
        return steady if again else {**steady, **{name: back[name] for name in names}}

    draw_older = draw.random() < 0.5
    by = f"{seconds:.0f} s" if draw_older else f"{share:.0%}"
    return Drawn(f"goes back {by}{f', every {every:.0f} s' if every else ''}", what, page)


def _crash_loop(server: Server, draw: random.Random) -> Drawn:
    """A process that begins anew every so often, and does not answer for some time before."""
    every, silent = draw.choice((20.0, 30.0, 50.0, 70.0)), draw.choice((0.0, 10.0, 20.0))

    def page(at: float, since: float) -> Page | None:
        began = since + (at - since) // every * every
        return None if at - began < silent else server.steady(at, began=began)

    return Drawn(f"crash loop every {every:.0f} s, silent {silent:.0f} s", "", page)


def _behind_a_proxy(server: Server, draw: random.Random) -> Drawn:
    """A process that began anew behind one that writes a start of its own, or the last page for a while."""
    kept, began = draw.choice((0.0, 10.0, 20.0, 30.0)), draw.uniform(0.0, 30.0)
    writes_start = draw.random() < 0.5

    def page(at: float, since: float) -> Page:
        if at - since < kept:
            return server.steady(since)
        shown = server.steady(at, began=since - began)
        return {**shown, STARTED: 9000.0} if writes_start else shown

    return Drawn(f"restart behind a proxy, kept {kept:.0f} s", "own start" * writes_start, page)


def _two(server: Server, draw: random.Random) -> Drawn:
    """A counter, and another one or a gauge."""
    one, other = _scaled(server, draw), draw.choice((_scaled, _more))(server, draw)
    fault, what = f"{one.fault} and {other.fault}", f"{one.what} and {other.what}"
    return Drawn(fault, what, _together(one.page, other.page, server))


def _container(server: Server, draw: random.Random) -> Drawn:
    """A container that starts again, once or every so often, by the clock of its node and some time later."""
    # No multiples of the interval: each process would have the same numbers at its scrape.
    every, silent = draw.choice((1e9, 23.0, 31.0, 53.0, 71.0)), draw.choice((0.0, 10.0, 20.0))
    ahead, later = draw.choice((0.0, 0.0, -3.0, 3.0)), draw.choice((0.0, 0.0, 10.0))
    phase = draw.uniform(0.5, 9.5)

    def began(at: float, since: float) -> float:
        return since + phase + (at - since - phase) // every * every

    def page(at: float, since: float) -> Page | None:
        if at < since + phase:
            return server.steady(at)
        start = began(at, since)
        if at - start < silent:
            return None
        # Requests that it serves now have come since it began.
        filled = start + RUNNING / PER_SECOND
        shown = server.steady(max(at, filled), began=filled)
        return {**shown, STARTED: chaos.BEGAN + start + ahead} if STARTED in shown else shown

    def restarted(at: float, since: float) -> float | None:
        seen = at - later
        return None if seen < since + phase else math.floor(began(seen, since) + ahead)

    times = "once" if every > 1e6 else f"every {every:.0f} s"
    shown = f"{times}, silent {silent:.0f} s, clock {ahead:+.0f} s, {later:.0f} s late"
    return Drawn(f"container starts {shown}", "", page, restarted)


def _wrong_container(server: Server, draw: random.Random) -> Drawn:
    """The same with a counter or a gauge that is wrong from then on."""
    one, other = _container(server, draw), draw.choice((_scaled, _more))(server, draw)
    page = _together(one.page, other.page, server)
    return Drawn(f"{one.fault} and {other.fault}", other.what, page, one.restarted)


KINDS: dict[str, Callable[[Server, random.Random], Drawn]] = {
    "counter": _scaled,
    "gauge": _more,
    "two": _two,
    "back": _back,
    "crash": _crash_loop,
    "proxy": _behind_a_proxy,
    "container": _container,
    "wrong container": _wrong_container,
}


def _aged(server: Server, seconds: float) -> Server:
    """The server after so long a time under the load: what its counters may fall by is as much more."""

    def page(at: float, began: float) -> Page:
        return server.page(at + seconds, began + seconds if began else 0.0)

    return dataclasses.replace(server, page=page)


def drawn(kind: str, server: Server, *, seed: int, draws: int) -> Iterator[faults.Case]:
    """Cases of one kind of fault of one kind of server."""
    draw = random.Random(f"{seed} {kind} {server.name}")  # noqa: S311 - faults, no secrets
    for _ in range(draws):
        aged = _aged(server, draw.choice((0.0, 1800.0, 86_400.0)))
        fault, what, page, restarted = KINDS[kind](aged, draw)
        lasts = kind in ("crash", "proxy", "container")
        pods = draw.choice((1, 2, faults.PODS))
        yield faults.Case(
            fault=fault, what=what, pods=pods, page=page, server=aged, lasts=lasts,
            restarted=restarted,
        )  # fmt: skip


async def outcomes(origin: chaos.Origin, cases: Iterable[faults.Case]) -> list[chaos.Outcome]:
    """What became of them."""
    with tempfile.TemporaryDirectory() as name:
        objects = Path(name) / "objects"
        scenario.write_objects(objects)
        return await chaos.matrix(objects, origin, cases)


def main() -> None:
    """Draw, run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=60, help="draws of each kind and server")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--origin", choices=ORIGINS, default="direct")
    parser.add_argument("--servers", nargs="*", default=[server.name for server in SERVERS])
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows: list[tuple[str, str, faults.Case]] = []
    for kind in options.kinds:
        for server in SERVERS:
            if server.name in options.servers:
                cases = drawn(kind, server, seed=options.seed, draws=options.draws)
                rows += [(kind, server.name, case) for case in cases]
    results = asyncio.run(outcomes(options.origin, [case for _, _, case in rows]))
    above, below = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for (kind, name, case), item in zip(rows, results, strict=True):
        if not item.holds:
            low = item.right is None or item.least is None or item.least < item.right
            below[kind, name] += low
            above[kind, name] += not low
            shown = " ".join("-" if it is None else str(it) for it in item.targets)
            print(f"{case.name:<98.98} {shown}  {item.said[:90]}")
    for kind in options.kinds:
        cells = [f"{n}: {above[kind, n]} above, {below[kind, n]} below" for n in options.servers]
        print(f"{kind:<15} of {options.draws:>3}  " + "; ".join(cells))
    if above or below:
        sys.exit(1)


if __name__ == "__main__":
    main()
