"""Prices that nothing names: a variant's condition says so only where they decide something."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adapter.planning.groups import EVERY, Budget, BudgetScope, without_role
from adapter.resources.annotations import ACCELERATOR_LABEL
from adapter.resources.configuration.profiles import DEFAULT_COST

if TYPE_CHECKING:
    from adapter.resources.inputs import Inputs
    from adapter.resources.variant import VariantSource

_IN_GROUP = "other variants of its group have other prices or GPUs"
_SHORT = "variants with other prices may want the same GPUs (--limited)"


def with_problems(inputs: Inputs, budgets: Sequence[Budget]) -> Inputs:
    """The inputs, with a warning at each variant whose assumed price decides something.

    So it does where a budget in cents counts the variant, and where the price is compared with another one:
    in its group, or where GPUs are limited, among variants of one priority on one device. Prices that are
    all assumed, of one accelerator, are equal and decide nothing.
    """
    assumed = [item for item in inputs.variants if item.price_assumed]
    if not assumed:
        return inputs
    why: dict[str, str] = {}
    for members, text in _compared(inputs):
        if len({item.accelerator if item.price_assumed else "" for item in members}) > 1:
            why.update((item.key, text) for item in members if item.price_assumed)
    in_cents = _InCents(budgets)
    for item in assumed:
        if name := in_cents.name_of(item):
            why[item.key] = f"budget {name!r} counts them"
    return replace(
        inputs,
        variants=tuple(
            replace(item, warnings=(*item.warnings, _text(why[item.key])))
            if item.key in why
            else item
            for item in inputs.variants
        ),
    )


def _compared(inputs: Inputs) -> Iterator[tuple[list[VariantSource], str]]:
    """Variants whose prices are compared with each other, and where; those of one group come last."""
    if inputs.capacity is not None:
        priority = {item.name: item.priority for item in inputs.service_classes}
        contenders: dict[Hashable, list[VariantSource]] = {}
        for item in inputs.variants:
            if item.device in inputs.capacity and not item.held:
                place = (item.device, priority.get(item.service_class))
                contenders.setdefault(place, []).append(item)
        yield from ((members, _SHORT) for members in contenders.values())
    sources = {item.key: item for item in inputs.variants}
    for group in inputs.groups:
        yield [sources[key] for key in group.members if key in sources], _IN_GROUP


class _InCents:
    """Budgets in cents, by whom they count; looked up, as both they and variants may be hundreds."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        subjects = [
            (item.scope, "" if item.scope == "installation" else item.subject) for item in budgets
        ]
        self._own = frozenset(subjects)
        named = zip(subjects, budgets, strict=True)
        self._names = {subject: item.name for subject, item in named if item.cost >= 0}

    def name_of(self, source: VariantSource) -> str:
        """Name of one that counts a variant; empty where none does."""
        places: tuple[tuple[BudgetScope, str], ...] = (
            ("installation", ""),
            ("namespace", source.namespace),
            ("class", without_role(source.service_class)),
        )
        for place in places:
            name = self._names.get(place if place in self._own else (place[0], EVERY))
            if name is not None:
                return name
        return ""


def _text(why: str) -> str:
    return (
        f"spec.variantCost: is not given, and {DEFAULT_COST:g} cents per hour for a replica hold, as in the"
        f" workload-variant-autoscaler, and {why}; set it (of a managed HPA: annotation"
        f" llm-d.ai/variant-cost), or metadata.labels[{ACCELERATOR_LABEL}] to a key of ConfigMap"
        " accelerator-unit-costs"
    )
