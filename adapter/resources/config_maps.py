"""ConfigMaps of the adapter: unit costs of accelerators, service classes, and its own settings.

They fail static: a row that breaks or disappears stays in force as it last was good, for the variants that
need it, until it is replaced. `LastGood` goes from one reading to the next.

An installation brings defaults in ConfigMaps of their own, so that an upgrade never replaces what people
wrote. A row of theirs, good or not, hides the default of its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapter.installation import (
    CLASSES,
    CONFIG_SUFFIX,
    COSTS,
    DEFAULTS_SUFFIX,
    MANAGED_TARGETS,
    NEEDED_CONFIG_MAPS,
    WVA_CONFIG_MAPS,
    WVA_QUEUEING,
)
from adapter.planning import fleet
from adapter.planning.groups import without_role
from adapter.resources import schemas
from adapter.resources.configuration import defaults, indexed, last_good, rows
from adapter.resources.configuration.indexed import Classes, Prices
from adapter.resources.configuration.last_good import (
    HELD,
    NOTHING,
    LastGood,
    MissingRowError,
    NamedClass,
    PricedAccelerator,
)
from adapter.resources.stored_status import Published
from adapter.resources.texts.documents import validated
from adapter.resources.wva.config import NO_CLASS, WvaConfig
from adapter.settings import keys

_MOST_PROBLEMS = 3
"""Most problems of ConfigMaps that one variant's message repeats."""


class _Reading:
    """Rows of the ConfigMaps, read one after the other.

    Attributes:
        wva: those of the workload-variant-autoscaler.
        data: settings of the adapter, as text by key.
        setting_problems: entries of `data` that have no effect.
        row_problems: rows of prices and classes that cannot be used, one line each.
        broken_costs: Problem of each price that cannot be read and has no earlier one, by accelerator.

    """

    def __init__(self, problems: list[str], last: LastGood = NOTHING) -> None:
        """Start empty; unusable entries are appended to `problems`, one line each."""
        self._problems = problems
        self._last = last
        self._accelerators: dict[str, PricedAccelerator] = {}
        self._classes: dict[str, NamedClass] = {}
        self._used_accelerators: set[str] = set()
        self._used_models: set[tuple[str, str]] = set()
        self._written = defaults.Written()
        self.broken_costs: dict[str, str] = {}
        self._missing: list[str] = []
        self.wva = WvaConfig(last.wva)
        self.data: dict[str, str] = {}
        self.setting_problems: list[keys.SettingProblem] = []
        self.row_problems, self._class_problems = list[str](), list[str]()
        self._unread_classes: list[str] = []
        self._gone: dict[str, None] = {}
        self._keys = indexed.Keys(self._classes)
        self._forget()

    def _forget(self) -> None:
        """Drop what was made of the rows read so far."""
        self._table: indexed.PriceTable | None = None
        self._indexed: tuple[Classes, Classes] | None = None

    def read(self, where: str, document: Mapping[str, Any]) -> None:
        """Read one ConfigMap; `where` names it in messages."""
        config_map = validated(schemas.ConfigMap, document, where, self._problems)
        if config_map is None:
            return
        self._forget()
        edited = (name := config_map.metadata.name).removesuffix(DEFAULTS_SUFFIX)
        if edited in NEEDED_CONFIG_MAPS:
            prices = edited == COSTS
            read = self._unit_cost if prices else self._service_class
            rows: dict[str, Any] = self._accelerators if prices else self._classes
            last = self._last.accelerators if prices else self._last.classes
            data = config_map.data
            for key in data if prices else last_good.in_order(data, self._last.classes):
                if self._written.counts(where, edited, key, rows=rows, last=last):
                    read(f"{where}: data.{key}", key, data[key])
        elif name.endswith(CONFIG_SUFFIX):
            self.setting_problems.extend(keys.problems(config_map.data, where))
            self.data.update(config_map.data)
        elif name in WVA_CONFIG_MAPS:
            for problem in self.wva.read(where, name, config_map.data):
                self._report(problem)
        elif name != MANAGED_TARGETS:
            self._problems.append(
                f"{where}: metadata.name: not a ConfigMap used here; known are {COSTS}, {CLASSES},"
                f" {', '.join(WVA_CONFIG_MAPS)} and *{CONFIG_SUFFIX}"
            )

    def missing(self, where: str, name: str) -> None:
        """Report that a ConfigMap does not exist."""
        held = self._last.accelerators if name == COSTS else self._last.classes
        more = f"; {HELD} of what variants use" if held else ""
        self._report(
            problem
            := f"{where}: is missing{more}; kubectl apply -f manifests/base/defaults.yaml makes it"
        )
        if name == COSTS and not held:
            self._missing.append(problem)

    def _report(self, problem: str) -> None:
        self._problems.append(problem)
        self.row_problems.append(problem)
        if CLASSES in problem:
            self._class_problems.append(problem)

    def _unit_cost(self, where: str, name: str, text: str) -> None:
        row, last = rows.parse_cost(name, text), self._last.accelerators.get(name)
        if row.accelerator is not None:
            self._accelerators[name] = PricedAccelerator(accelerator=row.accelerator, where=where)
            return
        self._report(problem := f"{where}: {'; '.join(row.problems)}{last_good.held(last)}")
        if last is not None:
            self._accelerators[name] = replace(last, where=where, problem=problem)
        else:
            self.broken_costs[name] = problem

    def _service_class(self, where: str, key: str, text: str) -> None:
        row = rows.parse_class(text)
        name = "" if row.service_class is None else row.service_class.name
        if not defaults.is_default(where, CLASSES):
            # People have a class of that name under another key.
            for other in self._keys.of(name):
                if defaults.is_default(self._classes[other].where, CLASSES):
                    del self._classes[other]
        elif self._keys.of(name):
            return
        last = self._last.classes.get(key)
        names = (name, "" if last is None else last.service_class.name)
        named_class, problems = last_good.class_in_force(
            row, last, where=where, key=key, taken=set(filter(self._keys.of, names))
        )
        for problem in problems:
            self._report(problem)
        if named_class is None:
            self._unread_classes += problems
        else:
            self._classes[key] = named_class
            self._keys.add(named_class)


class ConfigMaps(_Reading):
    """Contents of the ConfigMaps read so far, and what variants find in them."""

    @property
    def accelerators(self) -> dict[str, fleet.Accelerator]:
        """Accelerators with their costs by name: those of the rows, and those gone that variants use."""
        return {
            name: item.accelerator
            for name, item in {**self._last.accelerators, **self._accelerators}.items()
            if name in self._accelerators or name in self._used_accelerators
        }

    @property
    def classes(self) -> dict[str, NamedClass]:
        """Service classes by their key in the ConfigMap: those of the rows, and what is gone but used."""
        return last_good.with_used(self._classes, self._last.classes, self._used_models)

    def class_named(self, name: str) -> fleet.ServiceClass | None:
        """The service class of that name in force, with the targets of its row as it stands or was."""
        named = (classes.exactly(name) for classes in (*self._index(), self.wva))
        return next(filter(None, named), None)

    @property
    def service_classes(self) -> tuple[fleet.ServiceClass, ...]:
        """Service classes in force; rows of one name, of which one is gone, are one class."""
        return (*last_good.merged(self.classes, self._classes), *self.wva.service_classes)

    @property
    def told(self) -> tuple[str, ...]:
        """Rows that cannot be used, and those gone but in force; complete as `last_good` is."""
        return (*self.row_problems, *self._gone, *self.wva.gone)

    @property
    def last_good(self) -> LastGood:
        """What the next reading falls back to; complete once all variants were joined."""
        used = self.accelerators
        accelerators = {**self._last.accelerators, **self._accelerators}
        devices = indexed.Devices({}, self._last.accelerators, self._last.yielding)
        return LastGood(
            accelerators={name: item for name, item in accelerators.items() if name in used},
            classes=self.classes,
            wva=self.wva.good,
            yielding=frozenset(filter(devices.yields, used.keys() - self._accelerators.keys())),
        )

    def prices(
        self, names: Iterable[str], devices: Iterable[str] = ()
    ) -> tuple[Prices, tuple[str, ...]]:
        """Accelerators of the rows, with those gone that a variant needs; and what is wrong with their rows.

        Without any row, all accelerators of the last good rows stay in force; the problems name some of them.

        Args:
            names: accelerators that the variant names.
            devices: what it names, or its pods have, that may be the device of a row.

        """
        if self._table is None:
            unread = "; ".join([*self._missing, *self.broken_costs.values()][:_MOST_PROBLEMS])
            last = self._last.accelerators
            yielding = self._last.yielding
            self._table = indexed.PriceTable(
                self._accelerators, last, yielding=yielding, unread=unread
            )
        prices = self._table.of(names, devices)
        self._used_accelerators |= self._table.used
        self._gone.update(self._table.told)
        return prices

    def _index(self) -> tuple[Classes, Classes]:
        """Classes of the rows, and those of the last reading."""
        if self._indexed is None:
            self._indexed = Classes(self._classes), Classes(self._last.classes)
        return self._indexed

    def class_of(
        self,
        spec: schemas.VariantAutoscalingSpec,
        metadata: schemas.Metadata | None = None,
        published: Published | None = None,
    ) -> tuple[fleet.ServiceClass, tuple[str, ...]]:
        """Service class that the spec names, else the one of highest priority that lists the model.

        Gives what is wrong with it too. A class that is gone counts where no other one does. Objects of 2026,
        which have no sloClassRef, may go without: their targets are those of WVA's ConfigMap, or none.
        `metadata`: of the object; `published`: the last decision.

        Raises:
            MissingRowError: no such class lists the model, or its row is broken; names the field and the fix.

        """
        rows_now, gone = self._index()
        class_name = _class_name(spec.service_class, rows_now, gone)
        if class_name:
            item = rows_now.named(class_name)
            if item is not None and spec.model in item.service_class.targets:
                return item.service_class, item.problems_of(spec.model)
            before = gone.named(class_name)
            if before is not None and spec.model in before.service_class.targets:
                return self._held_class(before, spec.model)
            if item is not None:
                raise _not_listed(spec.model, item, rows_now, self._class_problems)
        listing_class = rows_now.listing(spec.model)
        if listing_class is None:
            before = gone.listing(spec.model)
            if before is None:
                # Where classes are broken or missing, no target is no statement.
                problems = (*self._class_problems, *self.wva.broken_of(spec.model))
                stated = spec.scale_target is None or class_name or problems
                namespace = "" if metadata is None else metadata.namespace
                own = self.wva.class_of(namespace, spec.model, untargeted=not stated)
                if own is None:
                    raise _not_listed(spec.model, None, rows_now, problems)
                if own.name == NO_CLASS and published is not None:
                    self._refuse_lost(published.service_class)
                    if metadata is not None and metadata.generation == published.generation:
                        _refuse_gone(published.service_class, spec.model)
                return own, self.wva.notes_of(own.name)
            return self._held_class(before, spec.model)
        if published is not None and published.service_class != listing_class.service_class.name:
            self._refuse_unread(published.service_class, spec.model)
            if metadata is not None and metadata.generation == published.generation:
                _refuse_renamed(published.service_class, spec.service_class)
        notes = listing_class.problems_of(spec.model)
        if class_name:
            unknown = (
                f"spec.sloClassRef.name: no service class is called {spec.service_class.name!r}; there"
                f" are {rows_now.names}. {listing_class.service_class.name!r} is used, as it lists the model"
            )
            notes = (unknown, *notes)
        return listing_class.service_class, notes

    def _refuse_lost(self, class_name: str) -> None:
        """Raise MissingRowError where the targets of this class, which a decision was for, are gone."""
        if lost := self.wva.lost(class_name):
            if lost not in self.row_problems:
                self._report(lost)
            raise MissingRowError(lost)

    def _refuse_unread(self, class_name: str, model: str) -> None:
        """Raise MissingRowError where this class of a decision may only be missing as its row is broken.

        So after a restart: what the row last had is not known then, and another class is not what it meant.
        """
        class_name = without_role(class_name)
        item = self._index()[0].named(class_name.lower())
        problems = self._unread_classes if item is None else item.problems_of(model)
        if class_name and problems:
            why = f"service class {class_name!r} of its last decision: "
            raise MissingRowError(why + "; ".join(problems[:_MOST_PROBLEMS]))

    def _held_class(
        self, item: NamedClass, model: str
    ) -> tuple[fleet.ServiceClass, tuple[str, ...]]:
        self._used_models.add((item.key, model))
        what = f"no longer lists model {model!r}" if item.key in self._classes else indexed.GONE
        text = f"{item.where}: {what}; {HELD} until there is such a row again"
        self._gone[text] = None
        return item.service_class, (text,)


def _refuse_gone(class_name: str, model: str) -> None:
    """Raise MissingRowError where the class of an unchanged object's last decision no longer lists its model.

    So after a restart: what its targets were is not known then, and none is not what it meant.
    """
    if class_name and class_name != NO_CLASS and not class_name.startswith(f"{WVA_QUEUEING}/"):
        raise MissingRowError(
            f"service class {class_name!r} of its last decision: no row of ConfigMap {CLASSES} lists model"
            f" {model!r} any more; restore it, or change the spec if there are to be no targets"
        )


def _refuse_renamed(class_name: str, reference: schemas.ServiceClassReference) -> None:
    """Raise MissingRowError where an unchanged object names the class of its last decision, which is gone.

    So after a restart: that another class lists its model is no statement that it is of that one now.
    """
    name = without_role(class_name)
    if name and name.lower() in {reference.name.lower(), reference.key.lower()}:
        raise MissingRowError(
            f"service class {name!r} of its last decision, which spec.sloClassRef names, is gone: restore it"
            f" in ConfigMap {CLASSES}, or name another class"
        )


def _not_listed(
    model: str, item: NamedClass | None, rows_now: Classes, problems: Sequence[str]
) -> MissingRowError:
    """No class lists a model: with what is wrong with their rows."""
    if item is None:
        text = (
            f"spec.modelID: no service class lists an SLO for model {model!r}; add it to ConfigMap"
            f" {CLASSES}"
        )
    else:
        text = (
            f"spec.modelID: service class {item.service_class.name!r} lists no SLO for model"
            f" {model!r}; it lists {rows_now.models(item)}. Add it to ConfigMap"
            f" {CLASSES}, or name another class in spec.sloClassRef"
        )
    return MissingRowError("; ".join([text, *problems[:_MOST_PROBLEMS]]))


def _class_name(reference: schemas.ServiceClassReference, rows_now: Classes, gone: Classes) -> str:
    """Class that a reference means, in lower case: its name, else its key where only that is a class.

    WVA's configuration guide has the ConfigMap's name there, and the class as its key.
    """
    class_name, key = reference.name.lower(), reference.key.lower()
    if any(classes.named(class_name) is not None for classes in (rows_now, gone)):
        return class_name
    return class_name if rows_now.named(key) is None else key
