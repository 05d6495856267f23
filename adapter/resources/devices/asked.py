"""Device types that the variants ask for, each with the place that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adapter.installation import COSTS
from adapter.resources import inputs, schemas, variant
from adapter.resources.configuration import profiles
from adapter.resources.configuration.indexed import Prices

MOST_PRODUCTS = 64
"""Most GPU products per namespace that are looked up for its pods alone; further ones are not looked up."""


def device_types(reader: inputs.Reader, config_namespace: str) -> dict[str, str]:
    """Device types of the accelerators that variants name, each with its place."""
    named: set[str] = set()
    for key, (_, item) in reader.variants.items():
        names = profiles.accelerators_of(item)
        last = reader.published.get(key)
        priced = reader.settings.prices(profiles.accelerators_of(item, last))[0]
        # Without a profile and a label: the accelerator of the pods' nodes, else the only one with a price.
        named.update(names or _of_pods(reader, key[0], item, priced))
    where = f"ConfigMap {config_namespace}/{COSTS}"
    return {
        accelerator.device_type: f"{where}: data.{name}"
        for name, accelerator in sorted(reader.settings.accelerators.items(), reverse=True)
        if name in named
    }


def own_products(reader: inputs.Reader) -> dict[str, str]:
    """GPU products of variants that price themselves, each with its variant: their pods say what they are."""
    own: dict[str, str] = {}
    asked: Counter[str] = Counter()
    for key, (at, item) in reader.variants.items():
        target = reader.targets.get((key[0], variant.reference(item)))
        if isinstance(target, variant.Target) and item.spec.variant_cost is not None:
            for product in target.products[:1]:
                if product not in own and asked[key[0]] < MOST_PRODUCTS:
                    own[product] = at
                    asked[key[0]] += 1
    return own


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
