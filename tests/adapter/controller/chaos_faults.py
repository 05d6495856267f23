"""Faults of the pages of servers: each input by each fault, at one pod or at all."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from tests.adapter.controller.chaos_servers import SERVERS, TGI_BY_CHANCE, VLLM, Page, Server

PODS, SECONDS = 4, 10.0

NONE = "no fault"
"""Fault of the case that shows the targets of a load which is not the same all the time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One fault.

    Attributes:
        fault: Its name.
        what: Input that it is of; empty for all of a page.
        pods: Number of pods that have it.
        page: The page of a pod that has it, by the time in seconds and the time at which the fault began;
            None where it does not answer.
        lasts: Whether it stays: a process that began anew does not come back.
        server: Kind of server whose pages they are.
        picker: The page of the endpoint picker before the pods, likewise; None without one.
        written: Changes the text of a page that has it; None leaves it as it is.
        always: Whether it is there from the first page on; no target ever is right then too.
        restarted: When the container of a pod that has it last started again, by the status of the pod, in
            seconds, likewise; None where it has not.

    """

    fault: str
    what: str
    pods: int
    page: Callable[[float, float], Page | None]
    lasts: bool = False
    server: Server = VLLM
    picker: Callable[[float, float], Page | None] | None = None
    written: Callable[[str], str] | None = None
    always: bool = False
    restarted: Callable[[float, float], float | None] | None = None

    @property
    def name(self) -> str:
        """Name for tables."""
        if self.picker is not None:
            return f"picker: {self.fault}, {self.what or 'page'}"
        where = (
            "one pod" if self.pods == 1 else "all pods" if self.pods == PODS else "half the pods"
        )
        return f"{self.server.name}: {self.fault}, {self.what or 'page'}, {where}"


class Faults:
    """Faulty pages of one kind of server."""

    def __init__(self, server: Server) -> None:
        """`server`: the kind."""
        self._server = server

    def changed(
        self, names: tuple[str, ...], change: Callable[[float], float | None]
    ) -> Callable[..., Page]:
        """Values changed one by one; None leaves the series out."""

        def page(at: float, _: float) -> Page:
            values = {}
            for name, value in self._server.steady(at).items():
                changed = change(value) if name in names else value
                if changed is not None:
                    values[name] = changed
            return values

        return page

    def stale(self, names: tuple[str, ...]) -> Callable[..., Page]:
        """Values that stand since the fault began."""

        def page(at: float, since: float) -> Page:
            before = self._server.steady(since)
            return {**self._server.steady(at), **{name: before[name] for name in names}}

        return page

    def flips(self, names: tuple[str, ...], more: float, *, seconds: float) -> Callable[..., Page]:
        """Values that are higher by so much in every second interval of that length."""

        def page(at: float, since: float) -> Page:
            added = more if (at - since) // seconds % 2 else 0.0
            return {
                name: value + added if name in names else value
                for name, value in self._server.steady(at).items()
            }

        return page

    def reset(self, names: tuple[str, ...]) -> Callable[..., Page]:
        """Counters that began anew."""

        def page(at: float, since: float) -> Page:
            fresh = self._server.steady(at, began=since)
            return {
                name: fresh[name] if name in names else value
                for name, value in self._server.steady(at).items()
            }

        return page

    def moved(
        self, names: tuple[str, ...], change: Callable[[float, float], float]
    ) -> Callable[..., Page]:
        """Values changed by what they were when the fault began."""

        def page(at: float, since: float) -> Page:
            before = self._server.steady(since)
            return {
                name: change(value, before[name]) if name in names else value
                for name, value in self._server.steady(at).items()
            }

        return page


_HUGE: tuple[Callable[[float], float], ...] = (lambda _: math.inf, lambda _: 1e308)
"""Values beyond what a measurement can be."""

_JUMPS = {"small jump": 12.0, "jump": 60.0, "huge jump": 1e6}
"""Requests that a gauge has at once besides those that are there: what clients left behind, and nonsense."""

_FLIPS = 400.0
"""Requests that a gauge has on every second page."""


def _growing(factor: float) -> Callable[[float, float], float]:
    """What grows so many times as fast since the fault began."""
    return lambda value, before: before + factor * (value - before)


def _of_counters(server: Server, pods: int) -> Iterator[Case]:
    """Faults of what only grows."""
    faults = Faults(server)
    case = partial(Case, server=server, pods=pods)
    certain = {
        "runs ahead by half": server.certain,
        "runs ahead by a quarter": server.counted_twice,
        "lags by a fifth": (*server.counted_twice, "first tokens"),
        "lags by half": (*server.counted_twice, "first tokens"),
        "doubles": server.counted_twice,
        "trebles": server.counted_twice,
    }
    for what, names in server.inputs.items():
        counters = server.counters_of(what)
        grows = {
            "runs ahead": 12.0,
            "runs ahead by half": 1.5,
            "runs ahead by a quarter": 1.25,
            "lags by a fifth": 0.8,
            "lags by half": 0.5,
            "doubles": 2.0,
            "trebles": 3.0,
        }
        for fault, page in {
            "half absent": faults.changed(names[:1], lambda _: None),
            "jump": faults.moved(counters, lambda value, before: value + 40.0 * max(before, 100.0)),
            "fall": faults.moved(counters, lambda value, before: value - 0.3 * before),
            **{fault: faults.moved(counters, _growing(factor)) for fault, factor in grows.items()},
        }.items():
            if what not in certain.get(fault, server.inputs):
                continue  # it may be true
            if counters and (fault != "half absent" or len(names) > 1):
                yield case(fault=fault, what=what, page=page)
    if server.at_one_event and pods == PODS:
        names = tuple(name for what in server.at_one_event for name in server.counters_of(what))
        for fault, factor in {"lags by half": 0.5, "doubles": 2.0, "trebles": 3.0}.items():
            page = faults.moved(names, _growing(factor))
            yield case(fault=fault, what=" and ".join(server.at_one_event), page=page)
    everything = tuple(name for what in server.inputs for name in server.counters_of(what))
    jump = faults.moved(everything, lambda value, before: value + 40.0 * max(before, 100.0))
    yield case(fault="jump", what="all counters", page=jump, lasts=True)


def _of_inputs(server: Server, pods: int) -> Iterator[Case]:
    """Faults that every input may have."""
    faults = Faults(server)
    for what, names in server.inputs.items():
        unit = (server.units[what],) if what in server.units else ()
        for fault, page in {
            "absent": faults.changed(names, lambda _: None),
            "NaN": faults.changed(names, lambda _: math.nan),
            **(
                {"1e308" if unit else "Inf": faults.changed(names, _HUGE[bool(unit)])}
                if pods == 1
                else {}
            ),
            "negative": faults.changed(names, lambda value: -value - 1.0),
            "stale": faults.stale(names),
            "reset": faults.reset(names),
            **({"wrong unit": faults.changed(unit, lambda value: 1000.0 * value)} if unit else {}),
        }.items():
            lasts = fault == "reset"
            yield Case(fault=fault, what=what, pods=pods, page=page, lasts=lasts, server=server)
    for what in server.gauges:
        for fault, more in _JUMPS.items():
            page = faults.changed(server.inputs[what], partial(operator.add, more))
            yield Case(fault=fault, what=what, pods=pods, page=page, server=server)
        for pages in (1, 3):
            page = faults.flips(server.inputs[what], _FLIPS, seconds=pages * SECONDS)
            fault = f"flips every {'page' if pages == 1 else f'{pages} pages'}"
            yield Case(fault=fault, what=what, pods=pods, page=page, server=server)


def _of_pages(server: Server, pods: int) -> Iterator[Case]:
    """Faults of whole pages."""
    everything = tuple(server.steady(0))
    faults, case = Faults(server), partial(Case, server=server, pods=pods, what="")

    def started(at: float, _: float) -> Page:
        """Two processes in turn, with counters that do not fall."""
        return {
            **server.steady(at), "process_start_time_seconds": 9000.0 + 400.0 * (at // SECONDS % 2)
        }  # fmt: skip

    yield case(fault="two start times", page=started)
    yield case(
        fault="every second answer",
        page=lambda at, _: None if at // SECONDS % 2 else server.steady(at),
    )
    yield case(fault="restart", page=faults.reset(everything), lasts=True)
    yield case(fault="hung", page=faults.stale(everything))
    yield case(fault="no answer", page=lambda *_: None)
    yield case(
        fault="twice the pods behind one address",
        page=lambda at, _: server.steady(at + 4000.0 * (at // SECONDS % 2)),
    )


def cases_of(server: Server) -> Iterator[Case]:
    """All faults of one kind of server."""
    for pods in (1, PODS):
        yield from _of_counters(server, pods)
        yield from _of_inputs(server, pods)
        yield from _of_pages(server, pods)
    yield Case(
        fault="no answer", what="", pods=PODS // 2, page=lambda *_: None, server=server
    )  # fmt: skip


def cases_by_chance(server: Server = TGI_BY_CHANCE) -> Iterator[Case]:
    """No fault, and then gauges that jump, of a server whose requests come by chance."""
    faults = Faults(server)
    for pods in (1, PODS):
        case = partial(Case, server=server, pods=pods)
        if pods == 1:
            yield case(fault=NONE, what="", page=faults.changed((), lambda _: None))
        for what in server.gauges:
            names = server.inputs[what]
            for fault, more in {**_JUMPS, "large jump": _FLIPS}.items():
                yield case(
                    fault=fault, what=what, page=faults.changed(names, partial(operator.add, more))
                )
            yield case(
                fault="flips every page", what=what,
                page=faults.flips(names, _FLIPS, seconds=SECONDS),
            )  # fmt: skip


def cases() -> Iterator[Case]:
    """All faults of all servers."""
    for server in SERVERS:
        yield from cases_of(server)
    yield from cases_by_chance()


def _labelled(name: str, more: Mapping[str, str]) -> str:
    """A series with further labels."""
    bare, _, own = name.partition("{")
    labels = [*([own.removesuffix("}")] if own else []), *(f'{k}="{v}"' for k, v in more.items())]
    return f"{bare}{{{','.join(labels)}}}" if labels else bare


def text_of(page: Page, labels: Mapping[str, str]) -> str:
    """A page as metrics text."""
    return "".join(f"{_labelled(name, labels)} {_number(value)}\n" for name, value in page.items())


def _number(value: float) -> str:
    """A number as metrics text has it."""
    if math.isnan(value):
        return "NaN"
    return "+Inf" if value == math.inf else repr(value)
