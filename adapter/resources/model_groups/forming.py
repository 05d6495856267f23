"""Which variants form a group: they share what is offered to their model.

Without annotations, the variants of one namespace, model and service class are a group where there are
several. One that names a group belongs to that one alone. A group may reach into other namespaces only where
both sides say so: the guest names `NAMESPACE/NAME`, and every variant of the group's own namespace admits the
guest's. Otherwise a tenant could draw another one's requests, or size another one's replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from adapter.planning.groups import Routing
from adapter.resources.model_groups.membership import GROUP, GROUP_NAMESPACES, ROUTING
from adapter.resources.variant import VariantSource

LEAST = 2
"""Fewest variants of a group: one alone is sized as it always was."""

MOST = 32
"""Most variants of a group: the time to place one grows with the third power of their number, and the plan is
everybody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGroup:
    """Variants that share one demand.

    Attributes:
        name: `NAMESPACE/NAME` where its variants name it, else `NAMESPACE/MODEL@CLASS`; unique.
        members: Keys of its variants, sorted; at least two.
        named: Whether its variants name it.
        routing: How its gateway spreads requests; None where its variants do not say.

    """

    name: str
    namespace: str
    model: str
    service_class: str
    members: tuple[str, ...]
    named: bool = False
    routing: Routing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Formed:
    """All groups, and what is wrong with their variants.

    Attributes:
        groups: Groups with at least two members, sorted by name.
        problems: What is wrong with what a variant says of its group, with the fix, by variant key.

    """

    groups: tuple[ModelGroup, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The problems, one line each."""
        return [f"VariantAutoscaling {key}: {text}" for key, text in self.problems.items()]


def form(variants: Iterable[VariantSource], *, unnamed: bool = True) -> Formed:
    """The groups of all variants; those that name none and are more than `MOST` alike form none.

    Args:
        variants: All variants of the fleet; held ones belong to none.
        unnamed: Whether variants that name no group form one with those like them.

    """
    named: dict[tuple[str, str], list[VariantSource]] = {}
    alike: dict[tuple[str, str, str, str, bool], list[VariantSource]] = {}
    for source in variants:
        membership = source.membership
        if source.held or membership.alone:
            continue
        if membership.named:
            named.setdefault((membership.namespace, membership.name), []).append(source)
        elif unnamed:
            # Nobody follows an advisory target: those beside it cannot count on it.
            # Prefill and decode are parts of one request, not two ways to serve it.
            kind = (source.model, source.service_class, source.role, source.advisory)
            alike.setdefault((source.namespace, *kind), []).append(source)
    groups: list[ModelGroup] = []
    problems: dict[str, str] = {}
    for (namespace, name), sources in named.items():
        group = _named(namespace, name, sources, problems)
        if group is not None:
            groups.append(group)
    groups += [
        _group(
            f"{namespace}/{model}@{service_class}{_marked(role, advisory=advisory)}",
            namespace,
            sources,
            problems,
        )
        for (namespace, model, service_class, role, advisory), sources in alike.items()
        if LEAST <= len(sources) <= MOST
    ]
    return Formed(groups=tuple(sorted(groups, key=lambda item: item.name)), problems=problems)


def with_problems(variants: Iterable[VariantSource], formed: Formed) -> tuple[VariantSource, ...]:
    """The variants, each with what is wrong with what it says of its group among its warnings."""
    return tuple(
        replace(item, warnings=(*item.warnings, formed.problems[item.key]))
        if item.key in formed.problems
        else item
        for item in variants
    )


def _marked(role: str, *, advisory: bool) -> str:
    marks = [*filter(None, [role]), *(["advisory"] if advisory else [])]
    return f" ({', '.join(marks)})" if marks else ""


def _group(
    name: str,
    namespace: str,
    sources: Iterable[VariantSource],
    problems: dict[str, str],
    *,
    named: bool = False,
) -> ModelGroup:
    # Guests go first where there are too many, and say nothing for the group's own variants.
    ranked = sorted(sources, key=lambda source: (source.namespace != namespace, source.key))
    for source in ranked[MOST:]:
        problems[source.key] = (
            f"group {name} has {len(ranked)} variants, and {MOST} are planned together at most; this one is"
            f" sized alone. Name smaller groups by metadata.annotations[{GROUP}]"
        )
    members = sorted(ranked[:MOST], key=lambda source: source.key)
    said = {item.key: item.membership.routing for item in ranked[:MOST] if item.membership.routing}
    first = next((key for key in said if key.startswith(f"{namespace}/")), "")
    routing = said.get(first)
    for key, other in said.items():
        if other != routing:
            does = (
                f"{first} of the same group says {routing!r}, which is used; make them equal"
                if first
                else f"no variant of namespace {namespace} says so, whose group it is; annotate one there"
            )
            problems[key] = f"metadata.annotations[{ROUTING}]: {other!r}, but {does}"
    return ModelGroup(
        name=name,
        namespace=namespace,
        model=members[0].model,
        service_class=members[0].service_class,
        members=tuple(source.key for source in members),
        named=named,
        routing=routing,
    )


def _named(
    namespace: str, name: str, sources: list[VariantSource], problems: dict[str, str]
) -> ModelGroup | None:
    """The group of those that name it, without those that may not or cannot be in it."""
    home = [source for source in sources if source.namespace == namespace]
    # Both sides may be thousands: they are not compared with each other.
    admits = [source.membership.admits for source in home]
    guests = frozenset[str]().union(*admits[:1]).intersection(*admits[1:])
    admitted = home + [
        source
        for source in sources
        if source.namespace != namespace and _admitted(source, namespace, name, guests, problems)
    ]
    if not admitted:
        return None
    # The group serves what most of its own variants serve.
    kinds = Counter(
        (source.model, source.service_class, source.role, source.advisory)
        for source in home or admitted
    )
    (model, service_class, role, advisory), _ = min(
        kinds.items(), key=lambda item: (-item[1], item[0])
    )
    members = []
    for source in admitted:
        wrong = [
            f"{what} {own!r} is not the group's {theirs!r}"
            for what, own, theirs in (
                ("spec.modelID", source.model, model),
                ("service class", source.service_class, service_class),
                ("role", source.role, role),
                ("advisory", source.advisory, advisory),
            )
            if own != theirs
        ]
        if not wrong:
            members.append(source)
            continue
        problems[source.key] = (
            f"metadata.annotations[{GROUP}]: {namespace}/{name}: {'; '.join(wrong)}; variants of one group"
            " serve one model in one class. It is sized alone; make them equal, or name another group"
        )
    if len(members) < LEAST:
        return None
    return _group(f"{namespace}/{name}", namespace, members, problems, named=True)


def _admitted(
    guest: VariantSource,
    namespace: str,
    name: str,
    guests: AbstractSet[str],
    problems: dict[str, str],
) -> bool:
    """Whether every variant of the group's namespace lets the guest in; else the problem is recorded.

    `guests`: namespaces that all of these let in.
    """
    if guest.namespace in guests:
        return True
    # Whether there is such a group is not said: who asks may have no right to see that namespace.
    problems[guest.key] = (
        f"metadata.annotations[{GROUP}]: {namespace}/{name}: no such group admits namespace"
        f" {guest.namespace}. It is sized alone; the owner of {namespace} annotates each variant of the group"
        f" with {GROUP}: {name} and {GROUP_NAMESPACES}: {guest.namespace}"
    )
    return False
