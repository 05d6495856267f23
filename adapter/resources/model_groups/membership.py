"""What the annotations of one variant say of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adapter import errors
from adapter.kube import paths, quantity
from adapter.kube.paths import shortened
from adapter.planning.groups import ROUTINGS, Routing
from adapter.settings import kinds

GROUP = "llmd.ai/group"
"""`none`, the name of a group of the own namespace, or `NAMESPACE/NAME` of a group of another one."""

GROUP_NAMESPACES = "llmd.ai/group-namespaces"
"""Namespaces whose variants may join the group, separated by commas."""

INTERRUPTIBLE = "llmd.ai/interruptible"
"""`true` where the replicas may be taken away at any time, such as those on spot nodes."""

ROUTING = "llmd.ai/group-routing"
"""How the gateway spreads requests over the pods of the group: least-loaded, round-robin or weights."""

WEIGHT = "llmd.ai/group-weight"
"""Part of the group's requests that the gateway sends to this variant, under routing weights."""

ALL = (GROUP, GROUP_NAMESPACES, ROUTING, WEIGHT)
"""Annotations that are read here."""

NONE = "none"

MOST_WEIGHT = 10**6
"""Largest weight, that of an HTTPRoute's backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What one variant says of its group.

    Attributes:
        alone: True keeps it out of every group.
        namespace: Namespace of the group that it names; empty where it names none.
        name: Name of that group; empty where it names none.
        admits: Namespaces whose variants it lets into its group.
        routing: How the gateway spreads requests over the group; None where it does not say.
        weight: Part of the requests that the gateway sends to it, under routing weights.

    """

    alone: bool = False
    namespace: str = ""
    name: str = ""
    admits: frozenset[str] = frozenset()
    routing: Routing | None = None
    weight: float = 1.0

    @property
    def named(self) -> bool:
        """Whether it names a group."""
        return bool(self.name)


NO_MEMBERSHIP = Membership()
"""What a variant without annotations says."""


def parse(notes: Mapping[str, str], namespace: str) -> Membership:
    """The membership of a variant of that namespace by its annotations.

    Raises:
        InputError: an annotation cannot be read; names it and what is accepted.

    """
    membership = Membership(
        admits=frozenset(_namespaces(notes.get(GROUP_NAMESPACES, ""))),
        routing=_routing(notes.get(ROUTING)),
        weight=_weight(notes.get(WEIGHT)),
    )
    text = notes.get(GROUP)
    if text is None:
        return membership
    if text == NONE:
        return replace(membership, alone=True)
    home, slash, name = text.rpartition("/")
    try:
        return replace(
            membership,
            namespace=paths.check_label(home) if slash else namespace,
            name=paths.check_name(name),
        )
    except ValueError as error:
        raise errors.InputError(
            f"metadata.annotations[{GROUP}]: must be {NONE}, NAME or NAMESPACE/NAME (DNS names), not"
            f" {shortened(text)}"
        ) from error


def _routing(text: str | None) -> Routing | None:
    for known in ROUTINGS:
        if text == known:
            return known
    if text is None:
        return None
    raise errors.InputError(
        f"metadata.annotations[{ROUTING}]: must be one of {', '.join(ROUTINGS)}, not {shortened(text)}"
    )


def _weight(text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        return float(quantity.whole(text, most=MOST_WEIGHT))
    except ValueError as error:
        raise errors.InputError(f"metadata.annotations[{WEIGHT}]: {error}") from error


def _namespaces(text: str) -> tuple[str, ...]:
    try:
        return kinds.labels(text)
    except ValueError as error:
        raise errors.InputError(f"metadata.annotations[{GROUP_NAMESPACES}]: {error}") from error
