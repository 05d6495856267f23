"""Rows of the ConfigMaps in force: as they stand, or as they last were good."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from adapter import errors
from adapter.planning import fleet
from adapter.resources.configuration import rows

MOST_LISTED = 32
"""Most names of rows that a message lists."""

HELD = "the last good value stays in force"


class MissingRowError(errors.InputError):
    """A variant needs a row of a ConfigMap that is not there; the message names the field and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedClass:
    """A service class in force, and its key in the ConfigMap.

    Attributes:
        where: its place, for messages.
        problems: what is wrong with the row as it stands, by model; "" holds for all models.

    """

    key: str
    service_class: fleet.ServiceClass
    where: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)

    def problems_of(self, model: str) -> tuple[str, ...]:
        """What is wrong with the row, as far as it concerns one model."""
        return tuple(self.problems[name] for name in ("", model) if name in self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedAccelerator:
    """An accelerator in force; `problem` says what is wrong with its row as it stands, empty for nothing."""

    accelerator: fleet.Accelerator
    where: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodEntry:
    """An entry of a ConfigMap of the workload-variant-autoscaler in force, and its place for messages."""

    where: str
    entry: BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """Rows in force at the last reading, by key; of rows that are gone, those that variants use.

    Attributes:
        wva: entries by ConfigMap and key.
        yielding: accelerators that are gone, and give way to another row of their device.

    """

    accelerators: Mapping[str, PricedAccelerator] = field(default_factory=dict)
    classes: Mapping[str, NamedClass] = field(default_factory=dict)
    wva: Mapping[tuple[str, str], GoodEntry] = field(default_factory=dict)
    yielding: frozenset[str] = frozenset()


NOTHING = LastGood()


def held(last: object) -> str:
    """Clause that the last good value stays in force; empty without one."""
    return "" if last is None else f"; {HELD}"


def in_order(data: Mapping[str, str], last: Mapping[str, NamedClass]) -> list[str]:
    """Keys of the rows of classes as they are read: of two with one name the first one is right.

    Those that are new, or whose classes have other names than they had, are the last.
    """

    def is_renamed(key: str) -> bool:
        now, before = rows.parse_class(data[key]).service_class, last.get(key)
        return before is None or (now is not None and now.name != before.service_class.name)

    return sorted(data, key=is_renamed)


def class_in_force(
    row: rows.ClassRow, last: NamedClass | None, *, where: str, key: str, taken: Collection[str]
) -> tuple[NamedClass | None, list[str]]:
    """The class that a row puts in force, and its problems, one line each.

    Args:
        row: the row as it stands.
        last: what the row had put in force before; None where it is new.
        where: place of the row, for messages.
        key: key of the row.
        taken: names of the classes of other rows.

    """
    parsed, problems = row.service_class, list(row.problems)
    if parsed is not None and parsed.name in taken:
        problems.append(f"name: class {parsed.name!r} is already defined")
    if parsed is None or problems:
        problem = f"{where}: {'; '.join(problems)}{held(last)}"
        if last is None or last.service_class.name in taken:
            return None, [problem]
        return replace(last, where=where, problems={"": problem}), [problem]
    before = {} if last is None else last.service_class.targets
    targets, told, reported = dict(parsed.targets), dict[str, str](), []
    for model, wrong in row.entry_problems.items():
        # What an entry without a model was about is whatever is missing now.
        concerned = [model] if model else [name for name in before if name not in targets]
        held_models = [name for name in concerned if name in before]
        problem = f"{where}: {wrong}{f'; {HELD}' if held_models else ''}"
        reported.append(problem)
        targets |= {name: before[name] for name in held_models}
        told |= dict.fromkeys([model, *held_models] if model else held_models, problem)
    service_class = replace(parsed, targets=targets)
    return NamedClass(key=key, service_class=service_class, where=where, problems=told), reported


def listed(names: Mapping[str, object]) -> str:
    """Names as messages list them: some of very many, for each variant has such a message."""
    shown = heapq.nsmallest(MOST_LISTED, names)
    more = [f"and {len(names) - MOST_LISTED} more"] if len(names) > MOST_LISTED else []
    return ", ".join([*shown, *more]) or "none"


def with_used(
    rows_now: Mapping[str, NamedClass],
    last: Mapping[str, NamedClass],
    used: Collection[tuple[str, str]],
) -> dict[str, NamedClass]:
    """Classes of the rows, and what is gone but used, by key; `used`: keys and models of these."""
    by_key, targets_of = dict(rows_now), dict[str, dict[str, fleet.Targets]]()
    for key, model in sorted(used):
        targets_of.setdefault(key, {})[model] = last[key].service_class.targets[model]
    for key, targets in targets_of.items():
        now = by_key.get(key)
        item, before = now or last[key], now.service_class.targets if now else {}
        own = replace(item.service_class, targets={**before, **targets})
        by_key[key] = replace(item, service_class=own)
    return by_key


def merged(
    classes: Mapping[str, NamedClass], rows_now: Collection[str]
) -> Collection[fleet.ServiceClass]:
    """Service classes in force, of one name one: that of a row as it stands, with the targets of both."""
    by_name: dict[str, fleet.ServiceClass] = {}
    for key, item in classes.items():
        one = item.service_class
        now = by_name.get(one.name)
        if now is None:
            by_name[one.name] = one
            continue
        first, second = (one, now) if key in rows_now else (now, one)
        by_name[one.name] = replace(first, targets={**second.targets, **first.targets})
    return by_name.values()
