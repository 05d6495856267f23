"""ConfigMaps of the adapter: unit costs of accelerators, service classes, and its own settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.variant import NamedClass
from adapter.settings import keys

Model = TypeVar("Model", bound=BaseModel)

COSTS = "accelerator-unit-costs"
CLASSES = "service-classes-config"
CONFIG_SUFFIX = "variantautoscaling-config"


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
            document = json.loads(text)
        except ValueError as error:
            self._problems.append(f"{where}: not valid JSON: {error}")
            return
        cost = validated(schemas.UnitCost, document, where, self._problems)
        if cost:
            self.accelerators[name] = fleet.Accelerator(
                name=name, device_type=cost.device or name, unit_cost=cost.cost
            )

    def _service_class(self, where: str, key: str, text: str) -> None:
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            self._problems.append(f"{where}: not valid YAML: {' '.join(str(error).split())}")
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


def validated(model: type[Model], document: Any, where: str, problems: list[str]) -> Model | None:
    """Validate a document; append one line per wrong field to `problems` and return None if there are any."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems.extend(f"{where}: {_field(item['loc'])}{item['msg']}" for item in error.errors())
        return None


def _field(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return f"{path}: " if path else ""
