"""Rows of the fleet under the groups that the control loop forms; a variant without a group stands alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter.ui.parts import Shared
from adapter.ui.rows import Row, Total, total


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
