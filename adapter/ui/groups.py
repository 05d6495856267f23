"""Rows of the fleet put together: sums over it and its parts, and rows under the groups of the control loop.

A variant without a group stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter.ui.parts import Shared
from adapter.ui.rows import STATES, URGENCY, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over some rows.

    Attributes:
        label: What the rows have in common.
        variants: Number of rows.
        urgent: Number of rows with a state before `scaling`.
        offered: Requests that arrive, where it is known.
        cost: Cost of desired replicas, where it is known.
        state: Most urgent state.

    """

    label: str
    variants: int
    urgent: int
    ready: int
    starting: int
    desired: int
    offered: float
    cost: float
    state: str


class _Sum:
    """Sums over rows that are added one by one."""

    __slots__ = (
        "cost",
        "desired",
        "offered",
        "ready",
        "starting",
        "urgent",
        "variants",
        "worst",
    )  # fmt: skip

    def __init__(self) -> None:
        self.variants = self.urgent = self.ready = self.starting = self.desired = 0
        self.offered = self.cost = 0.0
        self.worst = URGENCY["ok"]

    def add(self, row: Row) -> None:
        urgency = URGENCY[row.state]
        self.variants += 1
        self.urgent += urgency < URGENCY["scaling"]
        self.ready += row.ready
        self.starting += row.starting
        self.desired += row.desired or 0
        self.offered += row.offered or 0.0
        self.cost += row.cost or 0.0
        self.worst = min(self.worst, urgency)

    def total(self, label: str) -> Total:
        return Total(
            label=label,
            variants=self.variants,
            urgent=self.urgent,
            ready=self.ready,
            starting=self.starting,
            desired=self.desired,
            offered=self.offered,
            cost=self.cost,
            state=tuple(STATES)[self.worst],
        )


class Sums:
    """Sums over the fleet and its parts; a variant in several states counts in each."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Add these rows."""
        self._whole = _Sum()
        self._states: dict[str, _Sum] = {}
        self._classes: dict[str, _Sum] = {}
        self._accelerators: dict[str, _Sum] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add one row."""
        self._whole.add(row)
        for parts, label in (
            (self._classes, row.service_class),
            (self._accelerators, row.accelerator),
            *((self._states, state) for state in row.states),
        ):
            if (part := parts.get(label)) is None:
                part = parts[label] = _Sum()
            part.add(row)

    @property
    def whole(self) -> Total:
        """Sums over all rows."""
        return self._whole.total("fleet")

    @property
    def by_state(self) -> list[Total]:
        """Sums by state, the most urgent first; none of a state in which no variant is."""
        return [self._states[state].total(state) for state in STATES if state in self._states]

    @property
    def by_class(self) -> list[Total]:
        """Sums by service class, in the order of names."""
        return [part.total(label) for label, part in sorted(self._classes.items())]

    @property
    def by_accelerator(self) -> list[Total]:
        """Sums by accelerator, in the order of names."""
        return [part.total(label) for label, part in sorted(self._accelerators.items())]


def total(label: str, rows: Iterable[Row]) -> Total:
    """Sums over rows."""
    part = _Sum()
    for row in rows:
        part.add(row)
    return part.total(label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Neighbouring rows: of one group, or of variants without one.

    Attributes:
        shared: The group's demand and decision; None for variants without a group.
        total: Sums over all variants of the group, which another page may show.
        model: Model of the group.
        service_class: Class of the group.
        spot: Part of the demand that interruptible variants carry; None where there are none.
        rows: Rows to show.

    """

    shared: Shared | None
    total: Total
    rows: tuple[Row, ...]
    model: str = ""
    service_class: str = ""
    spot: float | None = None


def grouped(rows: Iterable[Row], everything: Iterable[Row]) -> list[Group]:
    """Rows by group in their order, neighbours without a group together.

    Args:
        rows: Rows to show, those of a group beside each other.
        everything: All rows, of which a group's sums are.

    """
    members: dict[str, list[Row]] = {}
    for row in everything:
        if row.shared is not None:
            members.setdefault(row.shared.name, []).append(row)
    parts: list[Group] = []
    run: list[Row] = []
    name = ""
    for row in rows:
        shared = "" if row.shared is None else row.shared.name
        if run and shared != name:
            parts.append(_group(run, members))
            run = []
        run.append(row)
        name = shared
    return [*parts, _group(run, members)] if run else parts


def alone(rows: Iterable[Row]) -> Group:
    """Rows without headings, whatever their groups."""
    some = tuple(rows)
    return Group(shared=None, total=total("", some), rows=some)


def _group(run: list[Row], members: Mapping[str, list[Row]]) -> Group:
    first = run[0]
    if first.shared is None:
        return alone(run)
    whole = members.get(first.shared.name, run)
    spot = [row.share for row in whole if row.interruptible]
    return Group(
        shared=first.shared,
        total=total(first.shared.name, whole),
        rows=tuple(run),
        model=first.model,
        service_class=first.service_class,
        spot=sum(share or 0.0 for share in spot) if spot else None,
    )
