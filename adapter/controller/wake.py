"""Which variants at zero replicas have to be woken."""

from __future__ import annotations

from collections.abc import Mapping

from adapter.collector.gateway import Demand, Place, of_model
from adapter.resources.inputs import Contents
from adapter.resources.variant import VariantSource


def waking(contents: Contents, demand: Mapping[Place, Demand]) -> frozenset[str]:
    """Keys of variants at zero that somebody wants: of a model that runs nowhere the cheapest."""
    costs = {item.name: item.unit_cost for item in contents.accelerators}

    def cost(source: VariantSource) -> tuple[float, str]:
        units = (costs.get(p.accelerator, 0.0) * p.accelerator_count for p in source.profiles)
        return min(units), source.key

    models: dict[tuple[str, str], list[VariantSource]] = {}
    for source in contents.variants:
        models.setdefault((source.namespace, source.model), []).append(source)
    found = set()
    for (namespace, model), sources in models.items():
        wanted = of_model(demand, namespace, model)
        if wanted is None or not wanted.any or any(s.replicas or s.wanted for s in sources):
            continue
        found.add(min(sources, key=cost).key)
    return frozenset(found)
