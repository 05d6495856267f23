"""GPUs that are not counted, and device types that may be several kinds of GPU: what messages say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_NAMED = 32
"""Most types of GPUs that a message names; drivers may publish a product for each device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """GPUs of a node that are not counted.

    Attributes:
        node: name of the node; empty for devices that are of no single one.
        what: type of the GPUs, or the resource name where the type is unknown.

    """

    node: str
    gpus: int
    what: str
    why: str

    def __str__(self) -> str:
        where = f"node {self.node}" if self.node else "ResourceSlices"
        return f"{where}: {self.gpus} {self.what} not counted: {self.why}"


def clauses(left_out: Sequence[LeftOut]) -> str:
    """Some of them, to go on with a sentence."""
    more = [f"and {len(left_out) - 3} more"] if len(left_out) > 3 else []
    return "".join(f"; {item}" for item in [*left_out[:3], *more])


def several(names: Sequence[str]) -> str:
    """What is said of a device type that may be any of these; empty where there are none."""
    return f"may be {' or '.join(names[:MOST_NAMED])}; write the one that is meant" if names else ""
