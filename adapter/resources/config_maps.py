"""ConfigMaps of the adapter: unit costs of accelerators, service classes, and its own settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter import errors
from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.documents import DocumentError, parse_json, parse_yaml, validated
from adapter.settings import keys

COSTS = "accelerator-unit-costs"
CLASSES = "service-classes-config"
CONFIG_SUFFIX = "variantautoscaling-config"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedClass:
    """A service class and its key in the ConfigMap."""

    key: str
    service_class: fleet.ServiceClass


class ConfigMaps:
    """Contents of the ConfigMaps read so far.

    Attributes:
        accelerators: accelerators with their costs, by name.
        classes: service classes by their key in the ConfigMap.
        data: settings of the adapter, as text by key.
        setting_problems: entries of `data` that are ignored.

    """

    def __init__(self, problems: list[str]) -> None:
        """Start empty; unusable entries are appended to `problems`, one line each."""
        self._problems = problems
        self.accelerators: dict[str, fleet.Accelerator] = {}
        self.classes: dict[str, NamedClass] = {}
        self.data: dict[str, str] = {}
        self.setting_problems: list[keys.SettingProblem] = []

    def read(self, where: str, document: Mapping[str, Any]) -> None:
        """Read one ConfigMap; `where` names it in messages."""
        config_map = validated(schemas.ConfigMap, document, where, self._problems)
        if config_map is None:
            return
        name = config_map.metadata.name
        if name == COSTS:
            for accelerator, text in config_map.data.items():
                self._unit_cost(f"{where}: data.{accelerator}", accelerator, text)
        elif name == CLASSES:
            for key, text in config_map.data.items():
                self._service_class(f"{where}: data.{key}", key, text)
        elif name.endswith(CONFIG_SUFFIX):
            self.setting_problems.extend(keys.problems(config_map.data, where))
            self.data.update(config_map.data)
        else:
            self._problems.append(
                f"{where}: metadata.name: not a ConfigMap used here; known are {COSTS}, {CLASSES}"
                f" and *{CONFIG_SUFFIX}"
            )

    def _unit_cost(self, where: str, name: str, text: str) -> None:
        try:
            document = parse_json(text)
        except DocumentError as error:
            self._problems.append(f"{where}: {error}")
            return
        cost = validated(schemas.UnitCost, document, where, self._problems)
        if cost:
            self.accelerators[name] = fleet.Accelerator(
                name=name, device_type=cost.device or name, unit_cost=cost.cost
            )

    def _service_class(self, where: str, key: str, text: str) -> None:
        try:
            document = parse_yaml(text)
        except DocumentError as error:
            self._problems.append(f"{where}: {error}")
            return
        parsed = validated(schemas.ServiceClassDocument, document, where, self._problems)
        if parsed is None:
            return
        if any(parsed.name == named.service_class.name for named in self.classes.values()):
            self._problems.append(f"{where}: name: class {parsed.name!r} is already defined")
            return
        targets = {
            level.model: fleet.Targets(
                itl_ms=level.itl_ms,
                ttft_ms=level.ttft_ms,
                tps=level.tps,
                percentile=None if level.percentile is None else level.percentile / 100,
            )
            for level in parsed.data
        }
        service_class = fleet.ServiceClass(
            name=parsed.name, priority=parsed.priority, targets=targets
        )
        self.classes[key] = NamedClass(key=key, service_class=service_class)


def class_of(
    spec: schemas.VariantAutoscalingSpec, classes: Sequence[NamedClass]
) -> fleet.ServiceClass:
    """Service class that the spec names, else the one of highest priority that lists the model.

    Raises:
        InputError: no such class lists the model; names the field and the fix.

    """
    wanted = spec.service_class.name.lower()
    if wanted:
        named = [
            item.service_class
            for item in classes
            if wanted in {item.service_class.name.lower(), item.key.lower()}
        ]
        if named:
            if spec.model not in named[0].targets:
                raise errors.InputError(
                    f"spec.modelID: service class {named[0].name!r} lists no SLO for model"
                    f" {spec.model!r}; it lists {listed(named[0].targets)}. Add it to ConfigMap"
                    " service-classes-config, or name another class in spec.sloClassRef"
                )
            return named[0]
    listing = [item.service_class for item in classes if spec.model in item.service_class.targets]
    if not listing:
        raise errors.InputError(
            f"spec.modelID: no service class lists an SLO for model {spec.model!r}; add it to"
            " ConfigMap service-classes-config"
        )
    return min(listing, key=lambda item: (item.priority, item.name))


def listed(names: Mapping[str, object]) -> str:
    """Names as messages list them."""
    return ", ".join(sorted(names)) or "none"
