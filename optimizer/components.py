"""Parts of a problem that share no scarce device type, and so can be solved apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from optimizer.problem import Problem, VariantCandidates


def demands(variants: Sequence[VariantCandidates]) -> dict[str, int]:
    """Devices by type that the variants could take together."""
    total: dict[str, int] = {}
    for variant in variants:
        most: dict[str, int] = {}
        for candidate in variant.candidates:
            kind = candidate.device_type
            most[kind] = max(most.get(kind, 0), candidate.demand)
        for kind, count in most.items():
            total[kind] = total.get(kind, 0) + count
    return total


def components(
    problem: Problem, capacity: Mapping[str, int]
) -> tuple[list[list[VariantCandidates]], list[str]]:
    """Groups of variants that share no scarce device type, and the scarce types."""
    wanted = demands(problem.variants)
    scarce = sorted(kind for kind, count in wanted.items() if count > capacity.get(kind, 0))
    indices = {kind: index for index, kind in enumerate(scarce)}
    rows, columns = [], []
    for row, variant in enumerate(problem.variants):
        for candidate in variant.candidates:
            if candidate.demand and candidate.device_type in indices:
                rows.append(row)
                columns.append(len(problem.variants) + indices[candidate.device_type])
    size = len(problem.variants) + len(scarce)
    links = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    _, labels = sparse.csgraph.connected_components(links, directed=False)
    groups: dict[int, list[VariantCandidates]] = {}
    for variant, label in zip(problem.variants, labels, strict=False):
        groups.setdefault(int(label), []).append(variant)
    return list(groups.values()), scarce
