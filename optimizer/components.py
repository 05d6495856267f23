"""Parts of a problem that share no scarce device type, and so can be solved apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimizer.problem import Problem, VariantCandidates, with_wider


def demands(
    variants: Sequence[VariantCandidates], within: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, int]:
    """Devices by type that the variants could take together; `within`: as of a problem."""
    total: dict[str, int] = {}
    for variant in variants:
        most: dict[str, int] = {}
        for candidate in variant.candidates:
            for kind in with_wider(candidate.device_type, within or {}):
                most[kind] = max(most.get(kind, 0), candidate.demand)
        for kind, count in most.items():
            total[kind] = total.get(kind, 0) + count
    return total


def components(
    problem: Problem, capacity: Mapping[str, int]
) -> tuple[list[list[VariantCandidates]], list[str]]:
    """Groups of variants that share no scarce device type, and the scarce types."""
    demanded = demands(problem.variants, problem.within)
    scarce = sorted(kind for kind, count in demanded.items() if count > capacity.get(kind, 0))
    # Which type stands for all types that a variant links, directly or through others.
    linked = {kind: kind for kind in scarce}

    def root(kind: str) -> str:
        while linked[kind] != kind:
            linked[kind] = linked[linked[kind]]
            kind = linked[kind]
        return kind

    first: list[str | None] = []
    for variant in problem.variants:
        types = dict.fromkeys(c.device_type for c in variant.candidates if c.demand)
        short = [k for item in types for k in with_wider(item, problem.within) if k in linked]
        for kind in short[1:]:
            linked[root(kind)] = root(short[0])
        first.append(short[0] if short else None)
    groups: dict[str | int, list[VariantCandidates]] = {}
    for place, (variant, link) in enumerate(zip(problem.variants, first, strict=True)):
        groups.setdefault(place if link is None else root(link), []).append(variant)
    return list(groups.values()), scarce
