"""Faults of the form of pages: units, other models, caches and clocks between a server and its reader."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import partial

from tests.adapter.controller.chaos_faults import PODS, Case, Faults
from tests.adapter.controller.chaos_servers import SERVERS, Page, Server

CACHED_SECONDS = (20.0, 30.0, 60.0)
"""Times for which a proxy before a pod shows one page."""

OFF_SECONDS = (-3600.0, 3600.0)
"""Seconds by which clocks are off."""

_UNIX_SECONDS = 10_000.0
"""Unix time at which a case begins, by the clock of the matrix."""

_STARTED = "process_start_time_seconds"

_FACTORS = {"a thousandth": 0.001, "a hundredth": 0.01, "percent": 100.0, "milliseconds": 1000.0}
"""Factors of values that have another unit: the reverse of the last two first."""


def _cached(server: Server, seconds: float) -> Callable[[float, float], Page]:
    """The page that a proxy got last, which it keeps for so long."""
    return lambda at, since: server.steady(since + (at - since) // seconds * seconds)


def _started(
    server: Server, start: float, *, of_at: float = 0.0, of_since: float = 0.0
) -> Callable[[float, float], Page]:
    """The page with another start of its process, which may move with time or be of when the fault began."""
    return lambda at, since: {
        **server.steady(at), _STARTED: start + of_at * at + of_since * since
    }  # fmt: skip


def _with_created(server: Server) -> Callable[[float, float], Page]:
    """The page with the time at which each counter began, as client libraries add it."""

    def page(at: float, _: float) -> Page:
        values = server.steady(at)
        for name in list(values):
            bare, brace, labels = name.partition("{")
            for end in ("_total", "_count"):
                if bare.endswith(end):
                    values[f"{bare.removesuffix(end)}_created{brace}{labels}"] = _UNIX_SECONDS
        return values

    return page


def _with_times(text: str, *, off_seconds: float) -> str:
    """A page with a time behind each value, milliseconds; `off_seconds`: by how much it is off."""
    return text.replace("\n", f" {1000.0 * (_UNIX_SECONDS + off_seconds):.0f}\n")


def _of_another(text: str, *, names: tuple[str, ...] = ()) -> str:
    """A page of another model; with names only these series are of it."""
    lines = text.splitlines(keepends=True)
    return "".join(
        re.sub(r'model_name="[^"]*"', 'model_name="another"', line)
        if not names or line.startswith(names)
        else line
        for line in lines
    )


def _beside_another(text: str) -> str:
    """A page with the series of another model too, of four times the values."""
    written = [line.rpartition(" ") for line in text.splitlines() if not line.startswith(_STARTED)]
    return text + _of_another("".join(f"{name} {4 * float(value)}\n" for name, _, value in written))


def _of_units(server: Server, pods: int) -> Iterator[Case]:
    """Latencies in milliseconds for seconds and the reverse, shares in percent and the reverse."""
    faults = Faults(server)
    for what in ("first tokens", "token latencies", "KV cache"):
        if (name := server.units.get(what)) is None:
            continue
        for fault, factor in _FACTORS.items():
            page = faults.changed((name,), partial(operator.mul, factor))
            yield Case(fault=fault, what=what, pods=pods, page=page, server=server)
            always = f"always {fault}"
            yield Case(fault=always, what=what, pods=pods, page=page, server=server, always=True)


def _of_clocks(server: Server, pods: int) -> Iterator[Case]:
    """Times of starts, of counters and of samples by clocks that are off."""
    case = partial(Case, server=server, pods=pods, what="")
    for off in OFF_SECONDS:
        ahead = f"an hour {'behind' if off < 0 else 'ahead'}"
        moved = _started(server, _UNIX_SECONDS + off)
        yield case(fault=f"start {ahead}", page=moved)
        yield case(fault=f"always start {ahead}", page=moved, always=True)
        drifts = _started(server, 9000.0, of_at=off / 3600.0)
        yield case(fault=f"start moves {ahead}", page=drifts)
        times = partial(_with_times, off_seconds=off)
        yield case(fault=f"times {ahead}", page=Faults(server).changed((), float), written=times)
    now = _started(server, _UNIX_SECONDS + 5.0, of_since=1.0)
    yield case(fault="start just now", page=now)
    yield case(fault="created", page=_with_created(server), always=True)


def cases_of(server: Server) -> Iterator[Case]:
    """All forms of the pages of one kind of server."""
    steady = Faults(server).changed((), float)
    for pods in (1, PODS):
        case = partial(Case, server=server, pods=pods)
        yield from _of_units(server, pods)
        yield from _of_clocks(server, pods)
        for seconds in CACHED_SECONDS:
            kept, page = f"kept for {seconds:.0f} s", _cached(server, seconds)
            yield case(fault=kept, what="", page=page)
            # A page that stands once or not at all shows no copies when it moves; one that has stood for a
            # minute since it is known may be of long answers.
            if seconds == CACHED_SECONDS[1]:
                yield case(fault=f"always {kept}", what="", page=page, always=True)
        if not server.names_model:
            continue
        yield case(fault="another model", what="", page=steady, written=_of_another)
        yield case(fault="beside another model", what="", page=steady, written=_beside_another)
        for what, names in server.inputs.items():
            written = partial(_of_another, names=names)
            yield case(fault="of another model", what=what, page=steady, written=written)


def cases() -> Iterator[Case]:
    """All forms of all servers."""
    for server in SERVERS:
        yield from cases_of(server)
