"""Bounds of a variant's replicas, and the HPAs that scale them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter import errors
from adapter.kube import scale
from adapter.resources import hpa, schemas
from adapter.resources.annotations import MAX_REPLICAS, MIN_REPLICAS, parse_count, with_owner
from adapter.resources.configuration import unknown
from adapter.resources.configuration.scalers import Scalers


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What bounds a variant and what scales it; see the attributes of `VariantSource`.

    Attributes:
        warnings: annotations that are not known, and bounds that the HPA does not keep.

    """

    scaler: hpa.Scaler | None
    minimum: int | None
    maximum: int | None
    ambiguity: str
    mismatch: str
    warnings: tuple[str, ...]


def of_variant(
    variant: schemas.VariantAutoscaling,
    notes: Mapping[str, str],
    *,
    target: scale.Reference,
    scalers: Scalers,
    accelerator: str,
) -> Scaling:
    """Bounds and HPAs of a variant.

    Args:
        variant: the object.
        notes: annotations of the object and of its scale target.
        target: its scale target.
        scalers: HPAs.
        accelerator: accelerator that its series are served with.

    Raises:
        InputError: its bounds contradict each other; names the fields.

    """
    served = hpa.served_labels(
        namespace=variant.metadata.namespace,
        name=variant.metadata.name,
        model=variant.spec.model,
        accelerator=accelerator,
    )
    namespace = variant.metadata.namespace
    scaler, ambiguity = hpa.of_target(scalers.of_target(namespace, target), target, served)
    minimum, maximum = _bounds(variant, notes, scaler)
    warnings = (*unknown.notes(notes), *_beyond(variant, notes, scaler))
    of_target = notes.keys() - variant.metadata.annotations.keys()
    return Scaling(
        scaler=scaler,
        minimum=minimum,
        maximum=maximum,
        ambiguity=ambiguity,
        mismatch=_mismatch(target, scalers.of_another_target(namespace, target, served)),
        warnings=tuple(with_owner(text, of_target, target) for text in warnings),
    )


def _beyond(
    variant: schemas.VariantAutoscaling, notes: Mapping[str, str], scaler: hpa.Scaler | None
) -> tuple[str, ...]:
    """Bounds of the variant beyond those of its HPA, which holds instead."""
    minimum, minimum_at = _bound(variant, notes, MIN_REPLICAS, "minReplicas")
    maximum, maximum_at = _bound(variant, notes, MAX_REPLICAS, "maxReplicas")
    if scaler is None:
        return ()
    if minimum is not None and minimum > scaler.maximum:
        what = f"{minimum_at}: {minimum} is more than maxReplicas {scaler.maximum}"
    elif maximum is not None and maximum < scaler.minimum and maximum > 0:
        what = f"{maximum_at}: {maximum} is less than minReplicas {scaler.minimum}"
    else:
        return ()
    return (f"{what} of HorizontalPodAutoscaler {scaler.name}, which holds; change one of the two",)


def _bounds(
    variant: schemas.VariantAutoscaling, notes: Mapping[str, str], scaler: hpa.Scaler | None
) -> tuple[int | None, int | None]:
    """Least and most replicas: the annotations' or the spec's, within the HPA's, which it enforces anyhow."""
    minimum, minimum_at = _bound(variant, notes, MIN_REPLICAS, "minReplicas")
    maximum, maximum_at = _bound(variant, notes, MAX_REPLICAS, "maxReplicas")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise errors.InputError(f"{minimum_at}: {minimum} is more than {maximum_at} {maximum}")
    if scaler is None:
        return minimum, maximum
    most = scaler.maximum if maximum is None else max(min(maximum, scaler.maximum), scaler.minimum)
    if scaler.by_keda and scaler.minimum == 1:
        # KEDA scales to zero beside its HPA, whose minimum is 1 then, too.
        return None if minimum is None else min(minimum, most), most
    if minimum is None:
        # An HPA that may go to 0 leaves it to the setting whether we do.
        return scaler.minimum or None, most
    return min(max(minimum, scaler.minimum), most), most


def _bound(
    variant: schemas.VariantAutoscaling, notes: Mapping[str, str], annotation: str, field: str
) -> tuple[int | None, str]:
    """A bound by the variant's annotation, its spec, else its target's annotation; and where it stands."""
    spec = variant.spec
    given = spec.min_replicas if field == "minReplicas" else spec.max_replicas
    if given is not None and annotation not in variant.metadata.annotations:
        return given, f"spec.{field}"
    return parse_count(notes, annotation), f"metadata.annotations[{annotation}]"


def _mismatch(target: scale.Reference, scaler: hpa.Scaler | None) -> str:
    """Conflict with an HPA that reads this variant's metric but scales another target; empty without one."""
    if scaler is None:
        return ""
    return (
        f"HorizontalPodAutoscaler {scaler.name} reads this variant's metric but scales"
        f" {scaler.reference}, not {target}{target.difference(scaler.reference)}; make its"
        " spec.scaleTargetRef and that of the VariantAutoscaling the same"
    )
