"""Inputs of a reconcile cycle: variants joined with costs, service classes, scale targets and HPAs.

Reading never stops at a bad object: it is refused with its field and the fix, and everything else is used.
The objects may come from files or from a cluster; this module does not know which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from adapter import errors, logs
from adapter.kube import scale
from adapter.planning import fleet
from adapter.resources import schemas, stored_status
from adapter.resources import variant as variants
from adapter.resources.annotations import Destinations
from adapter.resources.config_maps import ConfigMaps
from adapter.resources.configuration import ownership, refused, unknown
from adapter.resources.configuration.last_good import NOTHING, LastGood, MissingRowError
from adapter.resources.configuration.scalers import Scalers
from adapter.resources.model_groups import forming
from adapter.resources.serving import roles
from adapter.resources.texts.documents import validated
from adapter.settings import keys

if TYPE_CHECKING:
    from adapter.resources import pods

log = logs.LazyLogger()

API_VERSIONS = {
    "VariantAutoscaling": "llmd.ai/v1alpha1",
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidVariant:
    """A VariantAutoscaling that cannot be planned and is left out.

    Attributes:
        reason: reason in its conditions: InvalidConfiguration, TargetNotFound or TargetConflict.
        message: wrong fields, each with its fix.

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
class Inputs:
    """Everything that one reading of the objects gives to a reconcile cycle.

    Attributes:
        config: data of the adapter's own ConfigMap (`GLOBAL_OPT_INTERVAL` and others).
        problems: objects and fields that were left out, one line each.
        setting_problems: entries of `config` that have no effect.
        row_problems: rows of prices and classes, and budgets, that cannot be used, or are gone and in force.
        last_good: what the next reading falls back to where a row cannot be used.
        refused: VariantAutoscalings that were left out.
        groups: variants that share one demand.
        gateways: namespace and metrics URL of the endpoint pickers that serve variants.
        capacity: devices by device type; None: unlimited.
        within: all wider device types of a type, whose devices are among those of each and count there too.
        digest: changes whenever a file changes.
        accelerator_named: accelerators by name; of equal names the first.

    """

    accelerators: tuple[fleet.Accelerator, ...] = ()
    service_classes: tuple[fleet.ServiceClass, ...] = ()
    variants: tuple[variants.VariantSource, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    setting_problems: tuple[keys.SettingProblem, ...] = ()
    row_problems: tuple[str, ...] = ()
    last_good: LastGood = NOTHING
    refused: tuple[InvalidVariant, ...] = ()
    groups: tuple[forming.ModelGroup, ...] = ()
    gateways: tuple[tuple[str, str], ...] = ()
    capacity: Mapping[str, int] | None = None
    within: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digest: str = ""
    accelerator_named: Mapping[str, fleet.Accelerator] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Index the accelerators: each variant looks one up, several times in a cycle."""
        named = {item.name: item for item in reversed(self.accelerators)}
        object.__setattr__(self, "accelerator_named", named)


class Reader:
    """Reads objects one by one, then joins them to variants."""

    def __init__(
        self, destinations: Destinations | None = None, *, last_good: LastGood = NOTHING
    ) -> None:
        """Make a reader.

        Args:
            destinations: where metrics may be scraped besides a target's own pods; None: anywhere.
            last_good: rows of the ConfigMaps in force at the reading before.

        """
        self._destinations = destinations
        self.problems: list[str] = []
        self.refused: dict[tuple[str, str], InvalidVariant] = {}
        self.variants: dict[tuple[str, str], tuple[str, schemas.VariantAutoscaling]] = {}
        self.published: dict[tuple[str, str], stored_status.Published] = {}
        self.stored: dict[tuple[str, str], str] = {}
        self.targets: dict[tuple[str, scale.Reference], variants.Target | scale.Unresolved] = {}
        self.scalers = Scalers()
        self.settings = ConfigMaps(self.problems, last_good)
        self.capacity: Mapping[str, int] | None = None
        self.gateways: tuple[tuple[str, str], ...] = ()
        self.closed, self.counted_as = dict[str, str](), dict[str, str]()
        self.role_classes = roles.RoleClasses()

    def read_object(self, shown: str, document: Any) -> None:
        """Read an object of any known kind; `shown` precedes its name in messages."""
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            self.problems.append(f"{shown}not a Kubernetes object: no kind")
            return
        kind, where = document["kind"], f"{shown}{_name(document)}"
        if kind not in API_VERSIONS:
            known = ", ".join(API_VERSIONS)
            self.problems.append(f"{where}: kind: {kind!r} is not used here; known are {known}")
            return
        version, known_version = document.get("apiVersion"), API_VERSIONS[kind]
        if version != known_version:
            self.problems.append(f"{where}: apiVersion: must be {known_version!r}, not {version!r}")
            return
        if kind == "VariantAutoscaling":
            self.read_variant(where, document)
        elif kind == "Deployment":
            deployment = validated(schemas.Deployment, document, where, self.problems)
            if deployment:
                self.add_deployment(deployment)
        else:
            self.read_config_map(where, document)

    def read_variant(self, where: str, document: Mapping[str, Any]) -> None:
        """Read a VariantAutoscaling; one that is invalid is recorded as refused."""
        before = len(self.problems)
        variant = validated(schemas.VariantAutoscaling, document, where, self.problems)
        if variant is None:
            wrong = [problem.removeprefix(f"{where}: ") for problem in self.problems[before:]]
            self._refuse(document, "InvalidConfiguration", "; ".join(wrong))
            return
        self.problems.extend(f"{where}: {text}" for text in unknown.fields(document))
        key = (variant.metadata.namespace, variant.metadata.name)
        if key in self.variants:
            first = self.variants[key][0]
            self.problems.append(f"{where}: metadata.name: already defined ({first}); ignored")
            return
        self.variants[key] = (where, variant)
        published = stored_status.published(document.get("status"))
        if published is not None:
            self.published[key] = published
        self.stored[key] = stored_status.stored(document.get("status"))

    def add_deployment(
        self,
        deployment: schemas.Deployment,
        serving: pods.Serving | None = None,
        *,
        role: str = "",
        products: tuple[str, ...] = (),
        unselected: str = "",
    ) -> None:
        """Add a scale target, with its serving pods and their GPU products where they are known."""
        metadata, present = deployment.metadata, deployment.status.replicas
        self.targets[metadata.namespace, scale.Reference(name=metadata.name)] = variants.Target(
            replicas=deployment.spec.replicas if present is None else present,
            spec_replicas=deployment.spec.replicas,
            uid=metadata.uid,
            annotations=metadata.annotations,
            serving=serving,
            role=role,
            products=products,
            unselected=unselected,
        )

    def read_config_map(self, where: str, document: Mapping[str, Any]) -> None:
        """Read one of the ConfigMaps of the adapter."""
        self.settings.read(where, document)

    def inputs(self, fingerprint: str = "") -> Inputs:
        """Join the objects to variants; report those that cannot be used."""
        sources: list[variants.VariantSource] = []
        owners = ownership.owners(self.variants, self.targets, self._usable)
        for key in sorted(self.variants):
            try:
                sources += self._joined(key, owners)
            except Exception as error:
                # Whatever one object makes of us is that variant's problem alone.
                where, variant = self.variants[key]
                log.exception("variant cannot be used; leaving it out", variant="/".join(key))
                message = f"the objects of this variant cannot be used ({type(error).__name__})"
                self.problems.append(f"{where}: {message}")
                self._refuse_variant(variant.metadata, "InvalidConfiguration", message)
        settings, formed = self.settings, forming.form(sources)
        self.problems.extend(formed.lines)
        return Inputs(
            accelerators=tuple(
                {
                    **settings.accelerators,
                    **{own.name: own for item in sources if (own := item.own_accelerator)},
                }.values()
            ),
            service_classes=(*settings.service_classes, *self.role_classes.classes),
            variants=forming.with_problems(sources, formed),
            config=settings.data,
            problems=tuple(self.problems),
            setting_problems=tuple(settings.setting_problems),
            row_problems=settings.told,
            last_good=settings.last_good,
            refused=tuple(self.refused[key] for key in sorted(self.refused)),
            groups=formed.groups,
            gateways=self.gateways,
            capacity=self.capacity,
            digest=fingerprint,
        )

    def _joined(
        self, key: tuple[str, str], owners: Mapping[ownership.Workload, tuple[str, str]]
    ) -> list[variants.VariantSource]:
        """The variant, where it can be used; what is wrong with it is reported."""
        where, variant = self.variants[key]
        try:
            try:
                source = self._source(key, variant, owners)
            except MissingRowError as error:
                self.problems.append(f"{where}: {error}")
                return self._held(key, variant, str(error))
        except _InvalidVariantError as error:
            self.problems.append(f"{where}: {error}")
            self._refuse_variant(variant.metadata, error.reason, str(error))
        except errors.InputError as error:
            why = refused.all_problems(error, variant, self.targets)
            self.problems.append(f"{where}: {why}")
            self._refuse_variant(variant.metadata, "InvalidConfiguration", why)
        else:
            self.problems.extend(f"{where}: {warning}" for warning in source.warnings)
            return [source]
        return []

    def _source(
        self,
        key: tuple[str, str],
        variant: schemas.VariantAutoscaling,
        owners: Mapping[ownership.Workload, tuple[str, str]],
    ) -> variants.VariantSource:
        reference = variants.reference(variant)
        owner = owners[ownership.workload(self.targets, key[0], reference)]
        created = self.variants[owner][1].metadata.created
        conflict = _conflict(reference, owner[1], older=created != variant.metadata.created)
        # One that is first by name and no owner cannot be used: its own problem is raised below.
        if owner != key and (created != variant.metadata.created or owner < key):
            raise conflict
        target = self.targets.get((key[0], reference))
        if isinstance(target, scale.Unresolved):
            message = f"spec.scaleTargetRef: {reference}: {target.reason}"
            raise _InvalidVariantError("TargetNotFound", message)
        source = variants.source(
            variant,
            target,
            self.settings,
            scalers=self.scalers,
            published=self.published.get(key),
            stored=self.stored.get(key, ""),
            destinations=self._destinations,
        )
        if owner != key:
            raise conflict
        source = _of_nodes(source, self.counted_as, self.closed)
        return self.role_classes.apply(source, self.settings.class_named)

    def _held(
        self, key: tuple[str, str], variant: schemas.VariantAutoscaling, why: str
    ) -> list[variants.VariantSource]:
        """The variant with the target of its status, where ConfigMaps are broken, or a row is gone.

        Nothing is known of their last good rows then, and what is broken or gone is no order to stop. The row
        is gone where the object is the one that was decided for; one that was changed since is refused.
        """
        published = self.published.get(key)
        target = self.targets.get((key[0], variants.reference(variant)))
        broken, where = self.settings.row_problems, self._destinations
        unchanged = published is not None and published.generation == variant.metadata.generation
        if published is None or isinstance(target, scale.Unresolved) or not (broken or unchanged):
            self._refuse_variant(variant.metadata, "InvalidConfiguration", why)
            return []
        return [variants.held_source(variant, target, published, why=why, destinations=where)]

    def _usable(self, key: tuple[str, str]) -> bool:
        variant = self.variants[key][1]
        workload = ownership.workload(self.targets, key[0], variants.reference(variant))
        try:
            self._source(key, variant, {workload: key})
        except Exception:  # noqa: BLE001 - said where it is used
            return False
        return True

    def _refuse_variant(self, metadata: schemas.Metadata, reason: str, message: str) -> None:
        self.refused[metadata.namespace, metadata.name] = _invalid(metadata, reason, message)

    def _refuse(self, document: Mapping[str, Any], reason: str, message: str) -> None:
        """Refuse an object that failed validation; one without a name has no status to report to."""
        if (item := _refused(document, reason, message)) is not None:
            self.refused[item.namespace, item.name] = item


def _of_nodes(
    source: variants.VariantSource, counted_as: Mapping[str, str], closed: Mapping[str, str]
) -> variants.VariantSource:
    """A variant with what nodes say of its device; one that it alone prices may be counted as another one."""
    device, own = source.device, source.own_accelerator
    if own is not None:
        device = counted_as.get(device, device)
        own = replace(own, device_type=device)
    return replace(source, device=device, own_accelerator=own, closed=closed.get(device, ""))


def _refused(document: Mapping[str, Any], reason: str, message: str) -> InvalidVariant | None:
    """An object that failed validation, as far as it can be named; None where it has no name."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    namespace, name = metadata.get("namespace", "default"), metadata.get("name")
    if not (isinstance(namespace, str) and isinstance(name, str)):
        return None
    generation = metadata.get("generation")
    return InvalidVariant(
        namespace=namespace,
        name=name,
        reason=reason,
        message=message,
        generation=generation if isinstance(generation, int) else 0,
    )


def _invalid(metadata: schemas.Metadata, reason: str, message: str) -> InvalidVariant:
    return InvalidVariant(
        namespace=metadata.namespace,
        name=metadata.name,
        reason=reason,
        message=message,
        generation=metadata.generation,
    )


class _InvalidVariantError(errors.InputError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    namespace, name = metadata.get("namespace", "default"), metadata.get("name", "(no name)")
    return f"{document['kind']} {namespace}/{name}"


def _conflict(reference: scale.Reference, owner: str, *, older: bool) -> _InvalidVariantError:
    return _InvalidVariantError(
        "TargetConflict",
        f"spec.scaleTargetRef: {reference} is scaled by VariantAutoscaling {owner}, which"
        f" {'is older' if older else 'comes first by name'}; name another target, or delete one of the two",
    )
