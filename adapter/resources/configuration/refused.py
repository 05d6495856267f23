"""All annotations of an object that cannot be used: who mends one learns of the others at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapter import errors
from adapter.kube import scale
from adapter.planning import fleet
from adapter.resources import schemas, variant
from adapter.resources.annotations import (
    INTERRUPTIBLE_SHARE,
    KEEP_ACCELERATOR,
    MAX_REPLICAS,
    METRICS_SOURCE,
    MIN_REPLICAS,
    REPLICAS,
    RETENTION,
    ROUTING,
    SCALE_TO_ZERO,
    STARTUP,
    TUNE,
    parse_actuate,
    parse_count,
    parse_flag,
    parse_number,
    parse_one_of,
    with_owner,
)
from adapter.resources.model_groups import membership
from adapter.settings.control import SOURCES

_Read = Callable[[Mapping[str, str]], object]


def _readers(namespace: str) -> tuple[_Read, ...]:
    """Readers of one annotation each; `namespace`: of the variant."""
    counts = (REPLICAS, MIN_REPLICAS, MAX_REPLICAS)
    flags = (
        SCALE_TO_ZERO,
        KEEP_ACCELERATOR,
        TUNE,
        membership.INTERRUPTIBLE,
    )
    numbers = (RETENTION, STARTUP, INTERRUPTIBLE_SHARE)
    words = ((METRICS_SOURCE, SOURCES), (ROUTING, fleet.ROUTINGS))

    def each(read: Callable[[Mapping[str, str], str], object], name: str) -> _Read:
        return lambda notes: read(notes, name)

    def one_of(name: str, known: tuple[str, ...]) -> _Read:
        return lambda notes: parse_one_of(notes, name, known)

    def of_group(name: str) -> _Read:
        return lambda notes: membership.parse(
            {name: notes[name]} if name in notes else {}, namespace
        )

    return (
        *(each(parse_count, name) for name in counts),
        *(each(parse_flag, name) for name in flags),
        *(each(parse_number, name) for name in numbers),
        *(one_of(name, tuple(known)) for name, known in words),
        parse_actuate,
        *(of_group(name) for name in membership.ALL),
    )


def all_problems(
    error: errors.InputError,
    item: schemas.VariantAutoscaling,
    targets: Mapping[tuple[str, scale.Reference], variant.Target | scale.Unresolved],
) -> str:
    """What is wrong with a variant, and with all other annotations of it and its scale target.

    Args:
        error: what was met first.
        item: the variant.
        targets: scale targets by namespace and reference.

    """
    namespace = item.metadata.namespace
    target = targets.get((namespace, variant.reference(item)))
    of_target = target.annotations if isinstance(target, variant.Target) else {}
    texts = [str(error)]
    for read in _readers(namespace):
        try:
            read({**of_target, **item.metadata.annotations})
        except errors.InputError as other:
            texts.append(str(other))
    alone = of_target.keys() - item.metadata.annotations.keys()
    owner = variant.reference(item)
    return "; ".join(with_owner(text, alone, owner) for text in dict.fromkeys(texts))
