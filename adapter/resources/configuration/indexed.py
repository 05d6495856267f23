"""Rows in force by what variants ask for: looked up for each variant, and indexed once for all of them.

There may be thousands of rows and of variants, and the objects are joined again and again.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Collection, Iterable, Mapping

from adapter.planning import fleet
from adapter.resources.configuration.last_good import HELD, NamedClass, PricedAccelerator, listed
from adapter.resources.devices import products

GONE = "is gone"

_MOST_TOLD = 3
"""Most missing rows that the message of a variant lists which names no accelerator."""


class Prices(dict[str, fleet.Accelerator]):
    """Accelerators with a price by name; not changed once something was looked up.

    A device means one whose row is gone only where no other row has it.

    Attributes:
        unread: What is wrong with rows of which nothing is known; empty where all are.

    """

    def __init__(
        self,
        items: Mapping[str, fleet.Accelerator],
        gone: frozenset[str] = frozenset(),
        *,
        unread: str = "",
    ) -> None:
        """`gone`: those whose rows are gone."""
        super().__init__(items)
        self._gone = gone
        self.unread = unread

    @functools.cached_property
    def listing(self) -> str:
        """Their names as messages list them."""
        return listed(self)

    @functools.cached_property
    def only(self) -> str:
        """The only one, without those whose rows are gone unless all are; empty where there are several."""
        names = [name for name in self if name not in self._gone] or list(self)
        return names[0] if len(names) == 1 else ""

    def meant(self, label: str) -> str:
        """What a label means: a name in other case, or a device, as nodes are labelled; else the label."""
        if not label or label in self:
            return label
        names = self._by_lower.get(label.lower()) or self.alike(label)
        return names[0] if len(names) == 1 else label

    def alike(self, product: str) -> list[str]:
        """Names of those whose device may be this GPU product, sorted."""
        if product not in self._known:
            among = {
                name for chip in products.chips(product) for name in self._by_chip.get(chip, ())
            }
            means = [
                name for name in sorted(among) if products.alike(self[name].device_type, product)
            ]
            self._known[product] = [name for name in means if name not in self._gone] or means
        return self._known[product]

    @functools.cached_property
    def _known(self) -> dict[str, list[str]]:
        return {}

    @functools.cached_property
    def _by_lower(self) -> dict[str, list[str]]:
        by_lower: dict[str, list[str]] = {}
        for name in self:
            by_lower.setdefault(name.lower(), []).append(name)
        return by_lower

    @functools.cached_property
    def _by_chip(self) -> dict[str, list[str]]:
        by_chip: dict[str, list[str]] = {}
        for name, item in self.items():
            for chip in products.chips(item.device_type):
                by_chip.setdefault(chip, []).append(name)
        return by_chip


def gone(
    named: frozenset[str],
    rows: Mapping[str, PricedAccelerator],
    last: Mapping[str, PricedAccelerator],
) -> frozenset[str]:
    """Accelerators in force whose rows are gone: those that a variant names, or all where there is no row."""
    if not rows:
        return frozenset(last)
    return frozenset(name for name in named if name in last and name not in rows)


class Devices:
    """Devices of the rows as they stand, and as they last were good."""

    def __init__(
        self,
        rows: Mapping[str, PricedAccelerator],
        last: Mapping[str, PricedAccelerator],
        yielding: Collection[str],
    ) -> None:
        """`yielding`: of the last, those that were gone then and give way to others."""
        self._now = Prices({name: item.accelerator for name, item in rows.items()})
        stood = {name: item.accelerator for name, item in last.items() if name not in yielding}
        self._last, self._yielding = Prices(stood), yielding

    def yields(self, name: str) -> bool:
        """Whether one that is gone gives way to another row of its device: none stood beside it."""
        if name in self._yielding:
            return True
        return self._last.alike(self._last[name].device_type) == [name]

    def kept(self, devices: Iterable[str], named: Collection[str]) -> frozenset[str]:
        """Rows that are gone and stay in force, as these devices would else mean another one.

        A device of several rows means none of them, and still does when all but one of these are gone; not
        to whom that one is `named`, as by its last decision.
        """
        return frozenset(name for device in devices for name in self._of(device, named))

    def _of(self, device: str, named: Collection[str]) -> Collection[str]:
        if not device or device in self._now or device in self._last:
            return ()
        now, before = set(self._now.alike(device)), set(self._last.alike(device))
        return before - now if len(now) == 1 and now < before and not now & set(named) else ()


def priced(
    rows: Mapping[str, PricedAccelerator],
    gone: frozenset[str],
    last: Mapping[str, PricedAccelerator],
    *,
    kept: frozenset[str] = frozenset(),
    unread: str = "",
) -> Prices:
    """Accelerators of the rows and of those that are gone; `kept`: of these, as `Devices.kept`."""
    items = {**{name: last[name] for name in last if name in gone | kept}, **rows}
    accelerators = {name: item.accelerator for name, item in items.items()}
    return Prices(accelerators, gone - rows.keys() - kept, unread=unread)


def problems(
    named: frozenset[str],
    rows: Mapping[str, PricedAccelerator],
    gone: frozenset[str],
    last: Mapping[str, PricedAccelerator],
) -> tuple[str, ...]:
    """What is wrong with the rows that a variant names; where it names none, with some that are gone."""
    told = sorted(named or heapq.nsmallest(_MOST_TOLD, gone))
    texts = (
        is_gone(last[name]) if name in gone else rows[name].problem
        for name in told
        if name in gone or name in rows
    )
    return tuple(filter(None, texts))


def is_gone(item: PricedAccelerator) -> str:
    """What is said of a row that is gone."""
    return f"{item.where}: {GONE}; {HELD} until there is such a row again"


class PriceTable:
    """Prices of one reading, by what variants need of them.

    Attributes:
        used: Accelerators that are gone, and in force for variants so far.
        told: What is said of their rows, one line each.

    """

    def __init__(
        self,
        rows: Mapping[str, PricedAccelerator],
        last: Mapping[str, PricedAccelerator],
        *,
        yielding: Collection[str],
        unread: str,
    ) -> None:
        """Make it.

        Args:
            rows: as they stand.
            last: as they last were good.
            yielding: of these, those that were gone then.
            unread: what is wrong with rows of which nothing is known; empty where all are.

        """
        self.used: set[str] = set()
        self.told: dict[str, None] = {}
        self._rows, self._last, self._unread = rows, last, unread
        self._devices = Devices(rows, last, yielding)
        self._prices: dict[tuple[frozenset[str], frozenset[str]], Prices] = {}

    def of(self, names: Iterable[str], devices: Iterable[str]) -> tuple[Prices, tuple[str, ...]]:
        """Accelerators for a variant, as `ConfigMaps.prices`."""
        named = frozenset(names)
        kept, only = self._devices.kept(devices, named), gone(named, self._rows, self._last)
        if (only, kept) not in self._prices:
            self.used |= only | kept
            self.told |= dict.fromkeys(is_gone(self._last[name]) for name in sorted(only | kept))
            self._prices[only, kept] = priced(
                self._rows, only, self._last, kept=kept, unread=self._unread
            )
        wrong = problems(named | kept, self._rows, only | kept, self._last)
        return self._prices[only, kept], wrong


class Keys:
    """Keys of service classes by their name, while they are read."""

    def __init__(self, items: Mapping[str, NamedClass]) -> None:
        """`items`: classes by key, from which some may be removed."""
        self._items = items
        self._by_name: dict[str, dict[str, None]] = {}

    def add(self, item: NamedClass) -> None:
        """Take a class that was read."""
        self._by_name.setdefault(item.service_class.name, {})[item.key] = None

    def of(self, name: str) -> Collection[str]:
        """Keys of the classes of that name."""
        items = ((key, self._items.get(key)) for key in self._by_name.get(name, ()))
        return [key for key, item in items if item and item.service_class.name == name]


class Classes:
    """Service classes of one reading."""

    def __init__(self, items: Mapping[str, NamedClass]) -> None:
        """`items`: by their key in the ConfigMap."""
        self._items = items
        self._listings: dict[str, str] = {}
        self._exact: dict[str, fleet.ServiceClass] = {}
        self._by_name: dict[str, NamedClass] = {}
        self._by_model: dict[str, NamedClass] = {}
        for item in items.values():
            self._exact.setdefault(item.service_class.name, item.service_class)
            for name in (item.service_class.name.lower(), item.key.lower()):
                self._by_name.setdefault(name, item)
            for model in item.service_class.targets:
                first = self._by_model.setdefault(model, item)
                if _rank(item) < _rank(first):
                    self._by_model[model] = item

    def exactly(self, name: str) -> fleet.ServiceClass | None:
        """The first of exactly that name; None without one."""
        return self._exact.get(name)

    def named(self, name: str) -> NamedClass | None:
        """The first of that name or key, in lower case; None without one."""
        return self._by_name.get(name)

    def listing(self, model: str) -> NamedClass | None:
        """The class of highest priority that lists a model; None where no class does."""
        return self._by_model.get(model)

    @functools.cached_property
    def names(self) -> str:
        """All names as messages list them."""
        return listed({item.service_class.name: None for item in self._items.values()})

    def models(self, item: NamedClass) -> str:
        """Models of one of them as messages list them."""
        if item.key not in self._listings:
            self._listings[item.key] = listed(item.service_class.targets)
        return self._listings[item.key]


def _rank(item: NamedClass) -> tuple[int, str]:
    return item.service_class.priority, item.service_class.name
