"""`serve --variants DIR`: Kubernetes objects from YAML files, and what is wrong with them.

Reading never stops at a bad object: it is reported as `FILE: KIND NAMESPACE/NAME: FIELD: what and fix`
and left out, and everything else is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from adapter import errors, fleet, objects, variants

Model = TypeVar("Model", bound=BaseModel)

COSTS = "accelerator-unit-costs"
CLASSES = "service-classes-config"
CONFIG_SUFFIX = "variantautoscaling-config"
_API_VERSIONS = {
    "VariantAutoscaling": "llmd.ai/v1alpha1",
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What one reading of the folder found.

    Attributes:
        config: data of the adapter's own ConfigMap (`GLOBAL_OPT_INTERVAL` and others).
        problems: what could not be used, one line each.
        digest: changes whenever a file changes.

    """

    accelerators: tuple[fleet.Accelerator, ...] = ()
    service_classes: tuple[fleet.ServiceClass, ...] = ()
    variants: tuple[variants.VariantSource, ...] = ()
    config: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    digest: str = ""


def digest(folder: Path) -> str:
    """Fingerprint of all YAML files in the folder, names and contents."""
    hashed = hashlib.sha256()
    for path in _files(folder):
        hashed.update(str(path).encode() + b"\0")
        try:
            hashed.update(path.read_bytes())
        except OSError as error:
            hashed.update(str(error).encode())
    return hashed.hexdigest()


def read(folder: Path) -> Contents:
    """Read every `*.yaml` and `*.yml` below the folder.

    Raises:
        InputError: the folder is missing, or it holds no YAML file.

    """
    if not folder.is_dir():
        raise errors.InputError(f"{folder}: no such folder; give one with VariantAutoscaling YAML")
    if not any(True for _ in _files(folder)):
        raise errors.InputError(f"{folder}: no *.yaml or *.yml file in it")
    before = digest(folder)
    reader = _Reader()
    for path in _files(folder):
        reader.read_file(path, path.relative_to(folder))
    return reader.contents(before)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in {".yaml", ".yml"} and path.is_file() and not hidden:
            yield path


class _Reader:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.variants: dict[tuple[str, str], tuple[str, objects.VariantAutoscaling]] = {}
        self.deployments: dict[tuple[str, str], objects.Deployment] = {}
        self.accelerators: dict[str, fleet.Accelerator] = {}
        self.classes: dict[str, variants.NamedClass] = {}
        self.config: dict[str, str] = {}

    def read_file(self, path: Path, shown: Path) -> None:
        try:
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            self.problems.append(f"{shown}: not valid YAML: {' '.join(str(error).split())}")
            return
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{shown}: cannot be read: {error}")
            return
        for document in documents:
            if document is None:
                continue
            if isinstance(document, dict) and document.get("kind") == "List":
                for item in document.get("items") or []:
                    self.read_object(shown, item)
            else:
                self.read_object(shown, document)

    def read_object(self, shown: Path, document: Any) -> None:
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            self.problems.append(f"{shown}: not a Kubernetes object: no kind")
            return
        kind, where = document["kind"], f"{shown}: {_name(document)}"
        if kind not in _API_VERSIONS:
            known = ", ".join(_API_VERSIONS)
            self.problems.append(f"{where}: kind: {kind!r} is not used here; known are {known}")
            return
        if document.get("apiVersion") != _API_VERSIONS[kind]:
            found = document.get("apiVersion")
            self.problems.append(
                f"{where}: apiVersion: must be {_API_VERSIONS[kind]!r}, not {found!r}"
            )
            return
        if kind == "VariantAutoscaling":
            self._variant(where, document)
        elif kind == "Deployment":
            deployment = self._parse(objects.Deployment, document, where)
            if deployment:
                key = (deployment.metadata.namespace, deployment.metadata.name)
                self.deployments[key] = deployment
        else:
            config_map = self._parse(objects.ConfigMap, document, where)
            if config_map:
                self._config_map(where, config_map)

    def _variant(self, where: str, document: Any) -> None:
        variant = self._parse(objects.VariantAutoscaling, document, where)
        if variant is None:
            return
        key = (variant.metadata.namespace, variant.metadata.name)
        if key in self.variants:
            first = self.variants[key][0]
            self.problems.append(f"{where}: metadata.name: already defined ({first}); ignored")
            return
        self.variants[key] = (where, variant)

    def _config_map(self, where: str, config_map: objects.ConfigMap) -> None:
        name = config_map.metadata.name
        if name == COSTS:
            for accelerator, text in config_map.data.items():
                self._unit_cost(f"{where}: data.{accelerator}", accelerator, text)
        elif name == CLASSES:
            for key, text in config_map.data.items():
                self._service_class(f"{where}: data.{key}", key, text)
        elif name.endswith(CONFIG_SUFFIX):
            self.config.update(config_map.data)
        else:
            self.problems.append(
                f"{where}: metadata.name: not a ConfigMap used here; known are {COSTS}, {CLASSES}"
                f" and *{CONFIG_SUFFIX}"
            )

    def _unit_cost(self, where: str, name: str, text: str) -> None:
        try:
            document = json.loads(text)
        except ValueError as error:
            self.problems.append(f"{where}: not valid JSON: {error}")
            return
        cost = self._parse(objects.UnitCost, document, where)
        if cost:
            self.accelerators[name] = fleet.Accelerator(
                name=name, device_type=cost.device or name, unit_cost=cost.cost
            )

    def _service_class(self, where: str, key: str, text: str) -> None:
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            self.problems.append(f"{where}: not valid YAML: {' '.join(str(error).split())}")
            return
        parsed = self._parse(objects.ServiceClassDocument, document, where)
        if parsed is None:
            return
        if any(parsed.name == named.service_class.name for named in self.classes.values()):
            self.problems.append(f"{where}: name: class {parsed.name!r} is already defined")
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
        self.classes[key] = variants.NamedClass(key=key, service_class=service_class)

    def _parse(self, model: type[Model], document: Any, where: str) -> Model | None:
        try:
            return model.model_validate(document)
        except ValidationError as error:
            for item in error.errors():
                self.problems.append(f"{where}: {_field(item['loc'])}{item['msg']}")
            return None

    def contents(self, fingerprint: str) -> Contents:
        """Join the objects to variants; report those that cannot be used."""
        sources = []
        for key in sorted(self.variants):
            where, variant = self.variants[key]
            target = variant.spec.scale_target
            deployment = self.deployments.get((key[0], target.name if target else key[1]))
            try:
                source = variants.source(
                    variant, deployment, list(self.classes.values()), self.accelerators
                )
            except errors.InputError as error:
                self.problems.append(f"{where}: {error}")
            else:
                self.problems.extend(f"{where}: {warning}" for warning in source.warnings)
                sources.append(source)
        return Contents(
            accelerators=tuple(self.accelerators.values()),
            service_classes=tuple(named.service_class for named in self.classes.values()),
            variants=tuple(sources),
            config=self.config,
            problems=tuple(self.problems),
            digest=fingerprint,
        )


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    namespace, name = metadata.get("namespace", "default"), metadata.get("name", "(no name)")
    return f"{document['kind']} {namespace}/{name}"


def _field(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return f"{path}: " if path else ""
