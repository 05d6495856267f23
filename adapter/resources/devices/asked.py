"""Device types that the variants ask for, each with the place that says so."""

from __future__ import annotations

from adapter.installation import COSTS
from adapter.planning import fleet
from adapter.resources import inputs, variant
from adapter.resources.configuration import profiles
from adapter.resources.devices import products


def device_types(reader: inputs.Reader, config_namespace: str) -> dict[str, str]:
    """Device types of the accelerators that variants name, each with its place."""
    named: set[str] = set()
    known: dict[str, fleet.Accelerator] = {}
    for _, item in reader.variants.values():
        names = profiles.accelerators_of(item)
        known |= reader.settings.prices(names)[0]
        # Without a profile and a label there is only one accelerator, or the variant is refused.
        named.update(names or known)
    where = f"ConfigMap {config_namespace}/{COSTS}"
    types = {
        accelerator.device_type: f"{where}: data.{name}"
        for name, accelerator in sorted(known.items(), reverse=True)
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
