"""Device types that the variants ask for, each with the place that says so."""

from __future__ import annotations

from collections.abc import Iterable

from adapter.installation import COSTS
from adapter.resources import inputs, schemas, variant
from adapter.resources.configuration import profiles
from adapter.resources.configuration.indexed import Prices
from adapter.resources.devices import products


def device_types(reader: inputs.Reader, config_namespace: str) -> dict[str, str]:
    """Device types of the accelerators that variants name, each with its place."""
    named: set[str] = set()
    for key, (_, item) in reader.variants.items():
        names = profiles.accelerators_of(item)
        priced = reader.settings.prices(names)[0]
        # Without a profile and a label: the accelerator of the pods' nodes, else the only one with a price.
        named.update(names or _of_pods(reader, key[0], item, priced))
    where = f"ConfigMap {config_namespace}/{COSTS}"
    types = {
        accelerator.device_type: f"{where}: data.{name}"
        for name, accelerator in sorted(reader.settings.accelerators.items(), reverse=True)
        if name in named
    }
    for key, (at, item) in reader.variants.items():
        target = reader.targets.get((key[0], variant.reference(item)))
        if isinstance(target, variant.Target) and item.spec.variant_cost is not None:
            # Priced by its variant alone: its pods say what it is.
            for product in target.products[:1]:
                if not any(products.alike(device, product) for device in types):
                    types[product] = at
    return types


def _of_pods(
    reader: inputs.Reader,
    namespace: str,
    item: schemas.VariantAutoscaling,
    priced: Prices,
) -> Iterable[str]:
    """Accelerators that may be the GPU of a variant's pods; the only one where their GPU is not known."""
    target = reader.targets.get((namespace, variant.reference(item)))
    seen = target.products if isinstance(target, variant.Target) else ()
    if len(priced) == 1:
        return priced
    return {name for product in seen for name in priced.alike(product)}
