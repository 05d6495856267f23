"""Checks of the HPAs that read the adapter's metrics: which targets they read, and what they are served."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from adapter.diagnostics import configuration, hpa_fields
from adapter.diagnostics.aggregation import ZERO_MINOR
from adapter.diagnostics.site import MOST_NAMED, SCALERS, Finding, Site, in_order, key_of
from adapter.installation import MANAGED_TARGETS, METRICS
from adapter.kube import paths
from adapter.kube.errors import ApiError
from adapter.kube.scale import Reference
from adapter.resources import hpa, schemas
from adapter.resources.annotations import ACCELERATOR_LABEL, ACTUATE
from adapter.resources.stored_status import published
from adapter.resources.variant import reference
from adapter.resources.wva import managed

_STARTING_SECONDS = 120.0
"""Time after which a condition of an HPA is no longer one of its start."""

_SHOWN = 300
"""Most characters of a condition's message that are shown."""


async def check(site: Site) -> AsyncIterator[Finding]:
    """Every HPA that reads the adapter's metrics, and every variant that no HPA reads."""
    items = await site.objects(SCALERS)
    scalers = [hpa.parse(item) for item in items]
    stand_ins = filter(None, map(managed.variant_of, items))
    known = {**_variants(stand_ins), **_variants(await site.variants())}
    by_namespace: dict[str, dict[str, _Variant]] = {}
    for key, item in known.items():
        by_namespace.setdefault(item.namespace, {})[key] = item
    targets = {item.target for item in known.values()}
    for finding in await _readings(site, scalers, by_namespace, targets):
        yield finding
    scalers_of: dict[tuple[str, Reference], list[hpa.Scaler]] = {}
    keys_of: dict[tuple[str, Reference], set[str]] = {}
    for key, item in known.items():
        keys_of.setdefault(item.target, set()).add(key)
    read: set[str] = set()
    actuate = await site.flag("--actuate")
    for scaler in scalers:
        target = (scaler.namespace, scaler.reference)
        scalers_of.setdefault(target, []).append(scaler)
        read |= _read(scaler, by_namespace.get(scaler.namespace, {}), keys_of.get(target, set()))
    ambiguities: dict[tuple[str, Reference], tuple[str, list[str]]] = {}
    for key, item in sorted(known.items()):
        scaling = scalers_of.get(item.target, [])
        _, ambiguity = hpa.of_target(scaling, item.reference, item.served)
        if ambiguity:
            ambiguities.setdefault(item.target, (ambiguity, []))[1].append(key)
        if key not in read and not item.needs_no_hpa(actuate):
            yield _unread(key, item, scaling)
    for ambiguity, keys in ambiguities.values():
        yield Finding(
            "error",
            f"VariantAutoscaling{'s' if len(keys) > 1 else ''} {', '.join(keys)}: {ambiguity}",
            "kubectl delete the HPA that must not scale it, or its ScaledObject",
        )
    of_variants = {item.target: item for item in known.values()}
    for document, scaler in zip(items, scalers, strict=True):
        if why := managed.problem(document.get("metadata") or {}):
            yield Finding(
                "error", f"{_shown(scaler)}: {why}", "correct it; it stands for no variant"
            )
        target = (scaler.namespace, scaler.reference)
        if target in of_variants:
            said = {"AmbiguousSelector"} if target in ambiguities else set()
            for finding in _stopped(site, document, scaler, of_variants[target], said):
                yield finding


async def managed_targets(site: Site) -> AsyncIterator[Finding]:
    """Whether the targets of HPAs that stand for variants can be written, where there are such HPAs."""
    number = sum(managed.variant_of(item) is not None for item in await site.objects(SCALERS))
    if not number:
        return
    namespace = site.names.namespace
    items = await site.objects(paths.collection("v1", "configmaps", namespace=namespace))
    if any((item.get("metadata") or {}).get("name") == MANAGED_TARGETS for item in items):
        return
    yield Finding(
        "error",
        f"no ConfigMap {namespace}/{MANAGED_TARGETS}: only the leader serves the targets of {number} managed"
        " HPAs, and a new one knows none of them",
        "kubectl apply -f manifests/base/managed-targets.yaml",
    )


def _unread(key: str, item: _Variant, scalers: Iterable[hpa.Scaler]) -> Finding:
    """Problem that no HPA reads a variant's target, with the metric that its scale target is scaled by."""
    what, fix = (
        f"VariantAutoscaling {key}: no HPA reads its target",
        (
            "create one like manifests/samples/hpa.yaml, or set --actuate=scale; advice (--actuate=none)"
            " needs none"
        ),
    )
    scaling, _ = hpa.of_target(list(scalers), item.reference, item.served)
    if scaling is not None and scaling.others and not scaling.readings:
        what += f"; {scaling} scales {item.reference} by {', '.join(scaling.others)}"
        fix = "let it read inferno_desired_replicas of type External, as manifests/samples/hpa.yaml does"
    return Finding("warning", what, fix)


def _stopped(
    site: Site,
    document: Mapping[str, Any],
    scaler: hpa.Scaler,
    variant: _Variant,
    said: Collection[str],
) -> Iterable[Finding]:
    """What kube-controller-manager says that keeps an HPA from scaling, for longer than a start takes.

    Args:
        site: installation.
        document: the HPA as it is in the cluster.
        scaler: the same, parsed.
        variant: variant of its scale target.
        said: reasons that another finding has given already.

    """
    shown = _shown(scaler)
    for item in (document.get("status") or {}).get("conditions") or ():
        reason = str(item.get("reason"))
        stops = item.get("type") in {"AbleToScale", "ScalingActive"}
        if not stops or item.get("status") != "False" or _since(site, item) < _STARTING_SECONDS:
            continue
        if reason in said:
            continue
        if reason != "ScalingDisabled":
            fix = "kubectl describe it; the findings above name what the adapter serves"
            yield Finding("error", f"{shown}: {reason}: {str(item.get('message'))[:_SHOWN]}", fix)
        elif variant.desired and not scaler.scaled_object:  # KEDA itself leaves zero
            yield Finding(
                "error",
                f"{shown}: is off while its scale target has 0 replicas, and the target is {variant.desired}",
                f"kubectl scale it to 1, use Kubernetes 1.{ZERO_MINOR} with minReplicas: 0, or annotate"
                " llmd.ai/actuate: scale",
            )


def _since(site: Site, condition: Mapping[str, Any]) -> float:
    """Seconds since a condition changed; endless where it does not say."""
    age = site.seconds_since(condition.get("lastTransitionTime"))
    return math.inf if age is None else age


async def _readings(
    site: Site,
    scalers: Sequence[hpa.Scaler],
    variants: Mapping[str, Mapping[str, _Variant]],
    targets: Collection[tuple[str, Reference]],
) -> list[Finding]:
    """What is to be said of each metric that HPAs read.

    Args:
        site: installation.
        scalers: its HPAs.
        variants: variants by namespace and key.
        targets: namespaces and scale targets of variants; KEDA's queries for others are not ours.

    """
    minor, settings = await site.minor(), await configuration.settings(site)
    readings = [(scaler, reading) for scaler in scalers for reading in scaler.readings]
    asked = [
        finding
        for scaler in scalers
        if not scaler.readings
        and (
            scaler.by_keda
            or (scaler.by_prometheus and (scaler.namespace, scaler.reference) in targets)
        )
        for finding in hpa_fields.of_behavior(_shown(scaler), scaler, minor)
    ]
    served = await in_order(
        _served(site, _shown(scaler), scaler, reading, variants.get(scaler.namespace, {}))
        for scaler, reading in readings
    )
    findings = asked
    fine: list[Finding] = []
    unanswered: dict[str, list[tuple[str, ApiError]]] = {}
    for (scaler, reading), finding in zip(readings, served, strict=True):
        problems = hpa_fields.of_fields(_shown(scaler), scaler, reading, minor, settings)
        findings += problems
        if isinstance(finding, ApiError):
            why = str(finding).removeprefix(finding.path)
            unanswered.setdefault(why, []).append((_shown(scaler), finding))
        elif finding.level != "ok":
            findings.append(finding)
        elif not problems:
            fine.append(finding)
    findings += map(_unanswered, unanswered.values())
    if len(fine) > MOST_NAMED:
        fine = [Finding("ok", f"{len(fine)} HorizontalPodAutoscalers read one target each")]
    # What two metrics of one HPA have in common is said once.
    return [*dict.fromkeys(findings), *fine]


def _unanswered(alike: Sequence[tuple[str, ApiError]]) -> Finding:
    """What HPAs do not get with the same error: an API that is down is not said of each of hundreds."""
    shown, error = alike[0]
    more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
    return Finding("error", f"{shown}{more}: {error}", "see the APIService, above")


def _shown(scaler: hpa.Scaler) -> str:
    return f"HorizontalPodAutoscaler {scaler.namespace}/{scaler.name}"


def _read(scaler: hpa.Scaler, here: Mapping[str, _Variant], of_target: Collection[str]) -> set[str]:
    """Keys of the variants that an HPA reads.

    Args:
        scaler: the HPA.
        here: variants of its namespace, by key.
        of_target: keys of those of its scale target.

    """
    # Which query a trigger of Prometheus has is said by its ScaledObject alone.
    read = set(of_target) if scaler.by_keda or scaler.by_prometheus else set()
    for reading in scaler.readings:
        # Most name their variant: what hundreds of HPAs read is not looked for among all.
        name = reading.variant
        among = (f"{scaler.namespace}/{name}",) if name else here
        read.update(key for key in among if key in here and not reading.why_not(here[key].served))
    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """A VariantAutoscaling as HPAs meet it."""

    namespace: str
    served: Mapping[str, str]
    reference: Reference
    actuate: str | None
    desired: int

    @property
    def target(self) -> tuple[str, Reference]:
        """Namespace and scale target, to find the HPAs of it."""
        return self.namespace, self.reference

    def needs_no_hpa(self, default: str | None) -> bool:
        """Whether nothing or the adapter itself scales it; `default`: the adapter's --actuate."""
        return (self.actuate or default) in {"scale", "none"}


def _variants(items: Iterable[Mapping[str, Any]]) -> dict[str, _Variant]:
    """The valid VariantAutoscalings by key, with the labels that their series are served with."""
    variants = {}
    for item in items:
        try:
            variant = schemas.VariantAutoscaling.model_validate(item)
        except ValidationError:
            continue
        metadata = variant.metadata
        decided = published(item.get("status"))
        label = metadata.labels.get(ACCELERATOR_LABEL, "")
        variants[key_of(item)] = _Variant(
            namespace=metadata.namespace,
            served=hpa.served_labels(
                namespace=metadata.namespace,
                name=metadata.name,
                model=variant.spec.model,
                accelerator=label if decided is None else decided.accelerator,
            ),
            reference=reference(variant),
            actuate=metadata.annotations.get(ACTUATE),
            desired=0 if decided is None else decided.replicas,
        )
    return variants


async def _served(
    site: Site,
    shown: str,
    scaler: hpa.Scaler,
    reading: hpa.Reading,
    variants: Mapping[str, _Variant],
) -> Finding | ApiError:
    """What an HPA gets when it reads the metric, with its own selector; or why it gets no answer."""
    key = f"{scaler.namespace}/{reading.variant}"
    if reading.variant and key not in variants:
        return Finding(
            "error",
            f"{shown}: selects variant_name={reading.variant}, which does not exist in namespace"
            f" {scaler.namespace}",
            "set matchLabels.variant_name to the VariantAutoscaling's name",
        )
    if reading.unread:
        return Finding(
            "error",
            f"{shown}: {reading.unread}",
            "leave only matchLabels.variant_name in its selector",
        )
    query = (("labelSelector", reading.selector_text),)
    try:
        path = paths.metric(f"{METRICS}/v1beta1", scaler.namespace, reading.metric)
        document = await site.cluster.request("GET", path, query=query)
    except ApiError as error:
        return error
    values = [str(item.get("value")) for item in document.get("items") or ()]
    if len(values) == 1:
        elsewhere = _elsewhere(scaler, reading, variants)
        return elsewhere or Finding("ok", f"{shown}: reads {reading.metric} = {values[0]}")
    why = reading.why_not(variants[key].served) if key in variants else ""
    what = f"gets {len(values)} values of {reading.metric} for {reading.selector_text or 'no selector'}"
    if why:
        return Finding(
            "error",
            f"{shown}: {what}, needs exactly one: {why}",
            "leave only matchLabels.variant_name in its selector",
        )
    fix = (
        f"variant-adapter explain {key}"
        if not values and reading.variant
        else ("set matchLabels.variant_name to the VariantAutoscaling's name")
    )
    return Finding("error", f"{shown}: {what}, needs exactly one", fix)


def _elsewhere(
    scaler: hpa.Scaler, reading: hpa.Reading, variants: Mapping[str, _Variant]
) -> Finding | None:
    """Problem that an HPA scales something else than the variant whose target it reads."""
    name = f"{scaler.namespace}/{reading.variant}"
    among = [name] if reading.variant else list(variants)
    read = [key for key in among if not reading.why_not(variants[key].served)]
    if len(read) != 1 or variants[read[0]].reference.identity == scaler.reference.identity:
        return None
    of = variants[read[0]].reference
    return Finding(
        "error",
        f"{_shown(scaler)}: scales {scaler.reference} by the target of VariantAutoscaling {read[0]}, which is"
        f" for {of}{of.difference(scaler.reference)}",
        f"set scaleTargetRef to {of}, or variant_name to the variant of {scaler.reference}",
    )
