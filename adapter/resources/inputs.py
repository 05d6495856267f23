"""From Kubernetes objects to what a pass needs: variants joined with costs, classes, targets and HPAs.

Reading never stops at a bad object: it is refused with its field and the fix, and everything else is used.
The objects may come from files or from a cluster; this module does not know which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from adapter import errors
from adapter.kube import scale
from adapter.planning import fleet
from adapter.resources import hpa, pods, schemas
from adapter.resources import variant as variants

Model = TypeVar("Model", bound=BaseModel)

COSTS = "accelerator-unit-costs"
CLASSES = "service-classes-config"
CONFIG_SUFFIX = "variantautoscaling-config"
API_VERSIONS = {
    "VariantAutoscaling": "llmd.ai/v1alpha1",
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A VariantAutoscaling that is left out.

    Attributes:
        reason: for its conditions: InvalidConfiguration, TargetNotFound or TargetConflict.
        message: the fields and the fixes.

    """

    namespace: str
    name: str
    reason: str
    message: str
    generation: int = 0

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What one reading of the objects found.

    Attributes:
        config: data of the adapter's own ConfigMap (`GLOBAL_OPT_INTERVAL` and others).
        problems: what could not be used, one line each.
        refused: the VariantAutoscalings among it.
        capacity: devices by device type; None: unlimited.
        digest: changes whenever a file changes.

    """

    accelerators: tuple[fleet.Accelerator, ...] = ()
    service_classes: tuple[fleet.ServiceClass, ...] = ()
    variants: tuple[variants.VariantSource, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    capacity: Mapping[str, int] | None = None
    digest: str = ""


class Reader:
    """Takes objects one by one, then joins them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.refused: dict[tuple[str, str], Refusal] = {}
        self.variants: dict[tuple[str, str], tuple[str, schemas.VariantAutoscaling]] = {}
        self.published: dict[tuple[str, str], variants.Published] = {}
        self.targets: dict[tuple[str, scale.Reference], variants.Target | scale.Unresolved] = {}
        self.scalers: list[hpa.Scaler] = []
        self.accelerators: dict[str, fleet.Accelerator] = {}
        self.classes: dict[str, variants.NamedClass] = {}
        self.config: dict[str, str] = {}
        self.capacity: Mapping[str, int] | None = None

    def read_object(self, shown: str, document: Any) -> None:
        """Take an object that names its kind; `shown` goes before its name in messages."""
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            self.problems.append(f"{shown}not a Kubernetes object: no kind")
            return
        kind, where = document["kind"], f"{shown}{_name(document)}"
        if kind not in API_VERSIONS:
            known = ", ".join(API_VERSIONS)
            self.problems.append(f"{where}: kind: {kind!r} is not used here; known are {known}")
            return
        if document.get("apiVersion") != API_VERSIONS[kind]:
            found = document.get("apiVersion")
            self.problems.append(
                f"{where}: apiVersion: must be {API_VERSIONS[kind]!r}, not {found!r}"
            )
            return
        if kind == "VariantAutoscaling":
            self.read_variant(where, document)
        elif kind == "Deployment":
            deployment = self._parse(schemas.Deployment, document, where)
            if deployment:
                self.add_deployment(deployment)
        else:
            self.read_config_map(where, document)

    def read_variant(self, where: str, document: Mapping[str, Any]) -> None:
        """Take a VariantAutoscaling; what is wrong with it is kept as its refusal."""
        before = len(self.problems)
        variant = self._parse(schemas.VariantAutoscaling, document, where)
        if variant is None:
            wrong = [problem.removeprefix(f"{where}: ") for problem in self.problems[before:]]
            self._refuse(document, "InvalidConfiguration", "; ".join(wrong))
            return
        key = (variant.metadata.namespace, variant.metadata.name)
        if key in self.variants:
            first = self.variants[key][0]
            self.problems.append(f"{where}: metadata.name: already defined ({first}); ignored")
            return
        self.variants[key] = (where, variant)
        published = variants.published(document.get("status"))
        if published is not None:
            self.published[key] = published

    def add_deployment(
        self, deployment: schemas.Deployment, serving: pods.Serving | None = None
    ) -> None:
        """Take a scale target, with its pods where they are known."""
        metadata, wanted = deployment.metadata, deployment.spec.replicas
        status = deployment.status.replicas
        reference = scale.Reference(name=metadata.name)
        self.targets[metadata.namespace, reference] = variants.Target(
            replicas=wanted if status is None else status,
            wanted=wanted,
            uid=metadata.uid,
            annotations=metadata.annotations,
            serving=serving,
        )

    def read_config_map(self, where: str, document: Mapping[str, Any]) -> None:
        """Take one of the ConfigMaps that are used here."""
        config_map = self._parse(schemas.ConfigMap, document, where)
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
        cost = self._parse(schemas.UnitCost, document, where)
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
        parsed = self._parse(schemas.ServiceClassDocument, document, where)
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

    def contents(self, fingerprint: str = "") -> Contents:
        """Join the objects to variants; report those that cannot be used."""
        sources = []
        owners = self._owners()
        for key in sorted(self.variants):
            where, variant = self.variants[key]
            try:
                source = self._source(key, variant, owners)
            except _RefusedError as error:
                self.problems.append(f"{where}: {error}")
                self._refuse_variant(variant, error.reason, str(error))
            except errors.InputError as error:
                self.problems.append(f"{where}: {error}")
                self._refuse_variant(variant, "InvalidConfiguration", str(error))
            else:
                self.problems.extend(f"{where}: {warning}" for warning in source.warnings)
                sources.append(source)
        return Contents(
            accelerators=tuple(self.accelerators.values()),
            service_classes=tuple(named.service_class for named in self.classes.values()),
            variants=tuple(sources),
            config=self.config,
            problems=tuple(self.problems),
            refused=tuple(self.refused[key] for key in sorted(self.refused)),
            capacity=self.capacity,
            digest=fingerprint,
        )

    def _source(
        self,
        key: tuple[str, str],
        variant: schemas.VariantAutoscaling,
        owners: Mapping[tuple[str, scale.Reference], tuple[str, str]],
    ) -> variants.VariantSource:
        reference = variants.reference(variant)
        owner = owners[key[0], reference]
        if owner != key:
            raise _RefusedError(
                "TargetConflict",
                f"spec.scaleTargetRef: {reference} is scaled by VariantAutoscaling {owner[1]}, which is"
                " older; name another target, or delete one of the two",
            )
        target = self.targets.get((key[0], reference))
        if isinstance(target, scale.Unresolved):
            message = f"spec.scaleTargetRef: {reference}: {target.reason}"
            raise _RefusedError("TargetNotFound", message)
        return variants.source(
            variant,
            target,
            list(self.classes.values()),
            self.accelerators,
            scalers=[item for item in self.scalers if item.namespace == key[0]],
            published=self.published.get(key),
        )

    def _owners(self) -> dict[tuple[str, scale.Reference], tuple[str, str]]:
        """Who scales each target: of several that claim it the oldest, by name among equals."""
        owners: dict[tuple[str, scale.Reference], tuple[str, str]] = {}
        for key in sorted(self.variants, key=lambda key: (self._created(key), key)):
            owners.setdefault((key[0], variants.reference(self.variants[key][1])), key)
        return owners

    def _created(self, key: tuple[str, str]) -> str:
        return self.variants[key][1].metadata.created

    def _refuse_variant(
        self, variant: schemas.VariantAutoscaling, reason: str, message: str
    ) -> None:
        metadata = variant.metadata
        self.refused[metadata.namespace, metadata.name] = Refusal(
            namespace=metadata.namespace,
            name=metadata.name,
            reason=reason,
            message=message,
            generation=metadata.generation,
        )

    def _refuse(self, document: Mapping[str, Any], reason: str, message: str) -> None:
        """The same of an object that is no valid one; without a name nobody can be told."""
        metadata = document.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        namespace, name = metadata.get("namespace", "default"), metadata.get("name")
        if isinstance(namespace, str) and isinstance(name, str):
            generation = metadata.get("generation")
            self.refused[namespace, name] = Refusal(
                namespace=namespace,
                name=name,
                reason=reason,
                message=message,
                generation=generation if isinstance(generation, int) else 0,
            )


class _RefusedError(errors.InputError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
