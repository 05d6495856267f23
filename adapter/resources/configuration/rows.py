"""Rows of ConfigMaps `accelerator-unit-costs` and `service-classes-config`: their values and problems.

An entry of a service class that cannot be used is a problem of that entry alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from yaml import Node

from adapter.errors import field_problem
from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.texts.documents import (
    DocumentError,
    composed,
    field_path,
    lines_of,
    parse_json,
    parse_yaml,
)
from adapter.resources.texts.known import Known
from adapter.settings.yaml_nodes import repeated_keys

Model = TypeVar("Model", bound=BaseModel)

_SPELLINGS = {"slo-itl": "slo-tpot", "slo-ttw": "slo-ttft"}
"""Names of 2025 for targets, and today's."""

_FORM = 'a row is JSON such as {"device": "NVIDIA-H100-80GB-HBM3", "cost": "40.00"}'

_MOST_REPEATED = 3
"""Most repeated keys of one row that are reported."""

_KNOWN: Mapping[type[BaseModel], str] = {
    schemas.UnitCost: "device, cost",
    schemas.ServiceLevel: "model, slo-tpot, slo-ttft, slo-tps, slo-percentile",
    schemas.ServiceClassDocument: "name, priority, data",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """A unit cost; `accelerator` is None where the text cannot be used."""

    accelerator: fleet.Accelerator | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """A service class.

    Attributes:
        service_class: the class with the entries that can be used; None where it cannot be used as a whole.
        problems: what is wrong with the class as a whole.
        entry_problems: what is wrong with one entry, by its model; an entry without a model is under "".

    """

    service_class: fleet.ServiceClass | None = None
    problems: tuple[str, ...] = ()
    entry_problems: Mapping[str, str] = field(default_factory=dict)


_BEFORE = re.compile(r"(\d{1,2}) ?x ?(.*\D.*)")
_AFTER = re.compile(r"(.*[^\W_])( ?)x ?(\d{1,2})")
_SEPARATORS = re.compile(r"[-_./ ]")

_TOPOLOGY = re.compile(r"\d{1,2}(?:x\d{1,2})*")
"""What is beside the `x` of a topology such as `2x4` or `4x4x4`."""


def devices_in(name: str) -> int:
    """GPUs in one unit of an accelerator by the name of its row: two of `2xH100` and `H100x2`, else one.

    A topology (`tpu-v5e-2x4`) and a model whose name ends so (`rtx4`) are one.
    """
    form = _BEFORE.fullmatch(name.strip())
    if form and not _TOPOLOGY.fullmatch(_SEPARATORS.split(form[2])[0]):
        return int(form[1]) or 1
    form = _AFTER.fullmatch(name.strip())
    if form is None or _TOPOLOGY.fullmatch(_SEPARATORS.split(form[1])[-1]):
        return 1
    # Every model that is written without a blank before the `x` has a number.
    counted = form[2] or any(character.isdigit() for character in form[1])
    return int(form[3]) or 1 if counted else 1


def parse_cost(name: str, text: str) -> CostRow:
    """Parse the value of one accelerator, JSON with its device type and cost."""
    return _known_cost(name, text)


def parse_class(text: str) -> ClassRow:
    """Parse one service class, a YAML document with an entry for every model."""
    return _known_class(text)


def _parse_cost(name: str, text: str) -> CostRow:
    try:
        document = parse_json(text)
    except DocumentError as error:
        return CostRow(problems=(f"{error}; {_FORM}",))
    root = composed(text)
    problems, line = _repeated(root), lines_of(root)
    cost = _validated(schemas.UnitCost, document, line, problems)
    if cost is None or problems:
        return CostRow(problems=tuple(problems))
    return CostRow(
        accelerator=fleet.Accelerator(
            name=name,
            device_type=cost.device or name,
            unit_cost=cost.cost,
            multiplicity=devices_in(name),
        )
    )


def _parse_class(text: str) -> ClassRow:
    try:
        document = parse_yaml(text)
    except DocumentError as error:
        return ClassRow(problems=(str(error),))
    root = composed(text)
    problems, line = _repeated(root), lines_of(root)
    parsed = _validated(schemas.ServiceClassDocument, document, line, problems)
    if parsed is None or problems:
        return ClassRow(problems=tuple(problems))
    targets: dict[str, fleet.Targets] = {}
    wrong: dict[str, str] = {}
    twice: dict[str, str] = {}
    for index, entry in enumerate(parsed.data):
        entry_problems: list[str] = []
        level = _validated(schemas.ServiceLevel, entry, line, entry_problems, ("data", index))
        if level is None:
            model = entry.get("model") if isinstance(entry, dict) else None
            model = model if isinstance(model, str) else ""
            wrong[model] = "; ".join([*filter(None, [wrong.get(model)]), *entry_problems])
        elif level.model in targets:
            twice[level.model] = _located(
                line(("data", index)),
                f"data[{index}].model: is listed twice; keep one of the two",
            )
        else:
            targets[level.model] = _targets(level)
    return ClassRow(
        service_class=fleet.ServiceClass(
            name=parsed.name, priority=parsed.priority, targets=targets
        ),
        entry_problems={**wrong, **twice},
    )


_known_cost, _known_class = Known(_parse_cost), Known(_parse_class)


def _targets(level: schemas.ServiceLevel) -> fleet.Targets:
    return fleet.Targets(
        itl_ms=level.itl_ms,
        ttft_ms=level.ttft_ms,
        tps=level.tps,
        percentile=None if level.percentile is None else level.percentile / 100,
    )


def _validated(
    model: type[Model],
    document: Any,
    line: Callable[[Sequence[int | str]], int | None],
    problems: list[str],
    path: tuple[int | str, ...] = (),
) -> Model | None:
    """Validate what is at `path` of a text; append one line per wrong field to `problems`."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        for item in error.errors():
            location = (*path, *item["loc"])
            message = field_problem(item)
            if item["type"] == "extra_forbidden":
                message = _unknown(model, document, str(item["loc"][-1]))
            problems.append(_located(line(location), f"{field_path(location)}{message}"))
    except (RecursionError, TypeError) as error:
        problems.append(f"cannot be read ({type(error).__name__})")
    return None


def _unknown(model: type[BaseModel], document: Any, key: str) -> str:
    same = _SPELLINGS.get(key)
    if same is not None and same in document:
        return f"means the same as {same}; keep one of the two"
    return f"is not known; known are {_KNOWN[model]}"


def _repeated(root: Node | None) -> list[str]:
    repeated = repeated_keys(root)[:_MOST_REPEATED]
    return [_located(line, f"{key}: is given twice; keep one") for key, line in repeated]


def _located(line: int | None, message: str) -> str:
    return message if line is None else f"line {line}: {message}"
