"""What the annotations of one variant say of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter import errors
from adapter.kube import paths
from adapter.kube.paths import shortened
from adapter.settings import kinds

GROUP = "llmd.ai/group"
"""`none`, the name of a group of the own namespace, or `NAMESPACE/NAME` of a group of another one."""

GROUP_NAMESPACES = "llmd.ai/group-namespaces"
"""Namespaces whose variants may join the group, separated by commas."""

INTERRUPTIBLE = "llmd.ai/interruptible"
"""`true` where the replicas may be taken away at any time, such as those on spot nodes."""

INTERRUPTIBLE_SHARE = "llmd.ai/interruptible-share"
"""Share of the group's demand that interruptible variants carry at most."""

NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What one variant says of its group.

    Attributes:
        alone: True keeps it out of every group.
        namespace: Namespace of the group that it names; empty where it names none.
        name: Name of that group; empty where it names none.
        admits: Namespaces whose variants it lets into its group.

    """

    alone: bool = False
    namespace: str = ""
    name: str = ""
    admits: frozenset[str] = frozenset()

    @property
    def named(self) -> bool:
        """Whether it names a group."""
        return bool(self.name)


def parse(notes: Mapping[str, str], namespace: str) -> Membership:
    """The membership of a variant of that namespace by its annotations.

    Raises:
        InputError: an annotation cannot be read; names it and what is accepted.

    """
    admits = frozenset(_namespaces(notes.get(GROUP_NAMESPACES, "")))
    text = notes.get(GROUP)
    if text is None:
        return Membership(admits=admits)
    if text == NONE:
        return Membership(alone=True)
    home, _, name = text.rpartition("/")
    try:
        return Membership(
            namespace=paths.check_label(home) if home else namespace,
            name=paths.check_name(name),
            admits=admits,
        )
    except ValueError as error:
        raise errors.InputError(
            f"metadata.annotations[{GROUP}]: must be {NONE}, NAME or NAMESPACE/NAME (DNS names), not"
            f" {shortened(text)}"
        ) from error


def _namespaces(text: str) -> tuple[str, ...]:
    try:
        return kinds.labels(text)
    except ValueError as error:
        raise errors.InputError(f"metadata.annotations[{GROUP_NAMESPACES}]: {error}") from error
