"""ConfigMaps of the adapter: unit costs of accelerators, service classes, and its own settings.

They fail static: a row that breaks or disappears stays in force as it last was good, for the variants that
need it, until it is replaced. `LastGood` goes from one reading to the next.

An installation brings defaults in ConfigMaps of their own, so that an upgrade never replaces what people
wrote. A row of theirs, good or not, hides the default of its key.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
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
)
from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.configuration import defaults, last_good, rows
from adapter.resources.configuration.last_good import (
    HELD,
    NOTHING,
    LastGood,
    MissingRowError,
    NamedClass,
    PricedAccelerator,
    listed,
)
from adapter.resources.texts.documents import validated
from adapter.resources.wva.config import WvaConfig
from adapter.settings import keys

_GONE = "is gone"

_MOST_PROBLEMS = 3
"""Most problems of ConfigMaps that one variant's message repeats."""


class ConfigMaps:
    """Contents of the ConfigMaps read so far.

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
        self.wva = WvaConfig()
        self.data: dict[str, str] = {}
        self.setting_problems: list[keys.SettingProblem] = []
        self.row_problems: list[str] = []
        self._gone: dict[str, None] = {}

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
        by_key = dict(self._classes)
        for key, model in sorted(self._used_models):
            last = self._last.classes[key]
            now = by_key.get(key) or replace(
                last, service_class=replace(last.service_class, targets={})
            )
            targets = {**now.service_class.targets, model: last.service_class.targets[model]}
            by_key[key] = replace(now, service_class=replace(now.service_class, targets=targets))
        return by_key

    @property
    def service_classes(self) -> tuple[fleet.ServiceClass, ...]:
        """Service classes in force; rows of one name, of which one is gone, are one class."""
        by_name: dict[str, fleet.ServiceClass] = {}
        for key, item in self.classes.items():
            one = item.service_class
            now = by_name.get(one.name)
            if now is None:
                by_name[one.name] = one
                continue
            first, second = (one, now) if key in self._classes else (now, one)
            by_name[one.name] = replace(first, targets={**second.targets, **first.targets})
        return (*by_name.values(), *self.wva.service_classes)

    @property
    def told(self) -> tuple[str, ...]:
        """Rows that cannot be used, and those gone but in force; complete as `last_good` is."""
        return (*self.row_problems, *self._gone)

    @property
    def last_good(self) -> LastGood:
        """What the next reading falls back to; complete once all variants were joined."""
        used = self.accelerators
        accelerators = {**self._last.accelerators, **self._accelerators}
        return LastGood(
            accelerators={name: item for name, item in accelerators.items() if name in used},
            classes=self.classes,
        )

    def read(self, where: str, document: Mapping[str, Any]) -> None:
        """Read one ConfigMap; `where` names it in messages."""
        config_map = validated(schemas.ConfigMap, document, where, self._problems)
        if config_map is None:
            return
        name = config_map.metadata.name
        edited = name.removesuffix(DEFAULTS_SUFFIX)
        if edited in NEEDED_CONFIG_MAPS:
            prices = edited == COSTS
            read = self._unit_cost if prices else self._service_class
            rows: dict[str, Any] = self._accelerators if prices else self._classes
            last = self._last.accelerators if prices else self._last.classes
            for key, text in config_map.data.items():
                if self._written.counts(where, edited, key, rows=rows, last=last):
                    read(f"{where}: data.{key}", key, text)
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
            f"{where}: is missing{more}; kubectl apply -f manifests/base/defaults.yaml makes it"
        )

    def _report(self, problem: str) -> None:
        self._problems.append(problem)
        self.row_problems.append(problem)

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
            own = defaults.without_name(self._classes, CLASSES, name)
            for other in self._classes.keys() - own.keys():
                del self._classes[other]
        elif any(item.service_class.name == name for item in self._classes.values()):
            return
        taken = {item.service_class.name for item in self._classes.values()}
        named_class, problems = last_good.class_in_force(
            row, self._last.classes.get(key), where=where, key=key, taken=taken
        )
        for problem in problems:
            self._report(problem)
        if named_class is not None:
            self._classes[key] = named_class

    def prices(self, names: Iterable[str]) -> tuple[dict[str, fleet.Accelerator], tuple[str, ...]]:
        """Accelerators of the rows, with those gone that a variant names; and what is wrong with their rows.

        Without any row, those that are gone are all in force.
        """
        named = set(names)
        gone = {
            name: item
            for name, item in self._last.accelerators.items()
            if name not in self._accelerators and (name in named or not self._accelerators)
        }
        self._used_accelerators |= gone.keys()
        in_force = {**gone, **self._accelerators}
        problems = _price_problems(in_force, gone, named)
        self._gone.update(dict.fromkeys(text for text in problems if _GONE in text))
        return {name: item.accelerator for name, item in in_force.items()}, problems

    def class_of(
        self, spec: schemas.VariantAutoscalingSpec, namespace: str = ""
    ) -> tuple[fleet.ServiceClass, tuple[str, ...]]:
        """Service class that the spec names, else the one of highest priority that lists the model.

        Gives what is wrong with it too. A class that is gone counts where no other one does. Objects of 2026,
        which have no sloClassRef, may go without: their targets are those of WVA's ConfigMap, or none.

        Raises:
            MissingRowError: no such class lists the model; names the field and the fix.

        """
        rows_now, gone = list(self._classes.values()), list(self._last.classes.values())
        class_name = _class_name(spec.service_class, rows_now, gone)
        if class_name:
            named, before = (_named(class_name, spec.model, items) for items in (rows_now, gone))
            if named is None and before is not None:
                return self._held_class(before, spec.model)
            if named is not None:
                return named.service_class, named.problems_of(spec.model)
            for item in rows_now:
                if _matches(item, class_name):
                    raise MissingRowError(_not_listed(spec.model, item, self.row_problems))
        listing = [item for item in rows_now if spec.model in item.service_class.targets]
        if not listing:
            listing = [item for item in gone if spec.model in item.service_class.targets]
            if not listing:
                # Where classes are broken or missing, no target is no statement.
                broken = any(CLASSES in problem for problem in self.row_problems)
                untargeted = spec.scale_target is not None and not (class_name or broken)
                own = self.wva.class_of(namespace, spec.model, untargeted=untargeted)
                if own is None:
                    raise MissingRowError(_not_listed(spec.model, None, self.row_problems))
                return own, ()
            return self._held_class(_first(listing), spec.model)
        listing_class = _first(listing)
        notes = listing_class.problems_of(spec.model)
        if class_name:
            shown = listed({item.service_class.name: item for item in rows_now})
            unknown = (
                f"spec.sloClassRef.name: no service class is called {spec.service_class.name!r}; there"
                f" are {shown}. {listing_class.service_class.name!r} is used, as it lists the model"
            )
            notes = (unknown, *notes)
        return listing_class.service_class, notes

    def _held_class(
        self, item: NamedClass, model: str
    ) -> tuple[fleet.ServiceClass, tuple[str, ...]]:
        self._used_models.add((item.key, model))
        what = _GONE
        if item.key in self._classes:
            what = f"no longer lists model {model!r}"
        text = f"{item.where}: {what}; {HELD} until there is such a row again"
        self._gone[text] = None
        return item.service_class, (text,)


def _price_problems(
    in_force: Mapping[str, PricedAccelerator], gone: Container[str], named: Container[str]
) -> tuple[str, ...]:
    """What is wrong with the rows of accelerators that are named, or gone."""
    problems = (
        f"{item.where}: {_GONE}; {HELD} until there is such a row again"
        if name in gone
        else item.problem
        for name, item in sorted(in_force.items())
        if name in named or name in gone
    )
    return tuple(filter(None, problems))


def _not_listed(model: str, named: NamedClass | None, row_problems: Iterable[str]) -> str:
    """Message that no class lists a model, with what is wrong with their rows."""
    if named is None:
        text = (
            f"spec.modelID: no service class lists an SLO for model {model!r}; add it to ConfigMap"
            f" {CLASSES}"
        )
    else:
        text = (
            f"spec.modelID: service class {named.service_class.name!r} lists no SLO for model"
            f" {model!r}; it lists {listed(named.service_class.targets)}. Add it to ConfigMap"
            f" {CLASSES}, or name another class in spec.sloClassRef"
        )
    problems = [problem for problem in row_problems if CLASSES in problem]
    return "; ".join([text, *problems[:_MOST_PROBLEMS]])


def _class_name(
    reference: schemas.ServiceClassReference,
    rows_now: Sequence[NamedClass],
    gone: Sequence[NamedClass],
) -> str:
    """Class that a reference means, in lower case: its name, else its key where only that is a class.

    WVA's configuration guide has the ConfigMap's name there, and the class as its key.
    """
    class_name, key = reference.name.lower(), reference.key.lower()
    if any(_matches(item, class_name) for item in (*rows_now, *gone)):
        return class_name
    return key if any(_matches(item, key) for item in rows_now) else class_name


def _matches(item: NamedClass, class_name: str) -> bool:
    return class_name in {item.service_class.name.lower(), item.key.lower()}


def _named(class_name: str, model: str, classes: Iterable[NamedClass]) -> NamedClass | None:
    """The class of that name or key, if it lists the model."""
    listing_class = next((item for item in classes if _matches(item, class_name)), None)
    return (
        listing_class
        if listing_class is not None and model in listing_class.service_class.targets
        else None
    )


def _first(classes: Iterable[NamedClass]) -> NamedClass:
    return min(classes, key=lambda item: (item.service_class.priority, item.service_class.name))
