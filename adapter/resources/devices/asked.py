"""Device types that the variants ask for, each with the place that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adapter.installation import COSTS
from adapter.resources import inputs, schemas, stored_status, variant
from adapter.resources.configuration import profiles
from adapter.resources.configuration.indexed import Prices
from adapter.resources.configuration.last_good import MissingRowError

MOST_OWN = 64
"""Most device types per namespace that are looked up for its variants alone; further ones are not."""


def device_types(reader: inputs.Reader, config_namespace: str) -> dict[str, str]:
    """Device types of the accelerators that variants name, each with its place."""
    named: set[str] = set()
    for key, (_, item) in reader.variants.items():
        names = profiles.accelerators_of(item)
        last = reader.published.get(key)
        priced = reader.settings.prices(profiles.accelerators_of(item, last))[0]
        if item.spec.profile is None:
            # A label may have a row's name in other case, or its device.
            names = tuple(map(priced.meant, names))
        # Without a profile and a label: the accelerator of the pods' nodes, else the only one with a price.
        named.update(names or _of_pods(reader, key[0], item, priced))
    where = f"ConfigMap {config_namespace}/{COSTS}"
    return {
        accelerator.device_type: f"{where}: data.{name}"
        for name, accelerator in sorted(reader.settings.accelerators.items(), reverse=True)
        if name in named
    }


def own_devices(reader: inputs.Reader) -> dict[str, str]:
    """Device types of variants that price themselves, each with its variant: no row names them."""
    own: dict[str, str] = {}
    asked: Counter[str] = Counter()
    for key, (at, item) in reader.variants.items():
        target = reader.targets.get((key[0], variant.reference(item)))
        if isinstance(target, variant.Target) and asked[key[0]] < MOST_OWN:
            device = _own_device(reader, item, target, reader.published.get(key))
            if device and device not in own:
                own[device] = at
                asked[key[0]] += 1
    return own


def _own_device(
    reader: inputs.Reader,
    item: schemas.VariantAutoscaling,
    target: variant.Target,
    published: stored_status.Published | None,
) -> str:
    """Device of one that prices itself, by its label, its pods or its last decision; empty of others."""
    if not profiles.prices_itself(item):
        return ""
    devices = profiles.devices_of(item, target.products, published)
    priced = reader.settings.prices(profiles.accelerators_of(item, published), devices)[0]
    try:
        _, own = profiles.accelerator(
            item,
            (),
            priced,
            products=target.products,
            gpus=None if target.serving is None else target.serving.gpus,
            published=published,
        )
    except MissingRowError:
        return ""
    return "" if own is None else own.device_type


def _of_pods(
    reader: inputs.Reader,
    namespace: str,
    item: schemas.VariantAutoscaling,
    priced: Prices,
) -> Iterable[str]:
    """Accelerators that may be the GPU of a variant's pods; the only one where their GPU is not known."""
    target = reader.targets.get((namespace, variant.reference(item)))
    seen = target.products if isinstance(target, variant.Target) else ()
    named = {name for product in seen for name in priced.alike(product)}
    return named if len(named) == 1 or not priced.only else {*named, priced.only}
