"""Which VariantAutoscaling owns a scale target, where several name it in whatever spelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapter.kube import scale
from adapter.resources import schemas, variant

Workload = tuple[str, ...]
"""Namespace and identity of one real scale target."""


def workload(
    targets: Mapping[tuple[str, scale.Reference], variant.Target | scale.Unresolved],
    namespace: str,
    reference: scale.Reference,
) -> Workload:
    """What a reference means, whatever its spelling: the UID of the object, else group, kind and name.

    Pods of one role of an object, which has a scaler for it and makes a workload of it, say that first.
    """
    target = targets.get((namespace, reference))
    if isinstance(target, variant.Target) and target.serving and target.serving.workload:
        return namespace, target.serving.workload
    if isinstance(target, variant.Target) and target.uid:
        return namespace, target.uid
    return namespace, *reference.identity


def owners(
    named: Mapping[tuple[str, str], tuple[str, schemas.VariantAutoscaling]],
    targets: Mapping[tuple[str, scale.Reference], variant.Target | scale.Unresolved],
    usable: Callable[[tuple[str, str]], bool],
) -> dict[Workload, tuple[str, str]]:
    """Owner of each scale target: the oldest of the variants that name it, then the first by name.

    Objects of files have no creation time: of those, one that can be used goes before one that cannot.
    In a cluster the older one stays the owner while it is wrong, so that no newer one takes its target.
    """
    claims: dict[Workload, list[tuple[str, str, str]]] = {}
    for key, (_, item) in named.items():
        place = workload(targets, key[0], variant.reference(item))
        claims.setdefault(place, []).append((item.metadata.created, *key))
    owning = {}
    for place, claimants in claims.items():
        first = min(claimants)
        if len(claimants) > 1 and not first[0]:
            undated = sorted(claim for claim in claimants if not claim[0])
            first = next((claim for claim in undated if usable(claim[1:])), first)
        owning[place] = first[1:]
    return owning
