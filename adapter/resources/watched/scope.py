"""Objects that one installation reads."""

from __future__ import annotations

from dataclasses import dataclass

from adapter.settings.serving import Actuator


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Objects that this installation reads.

    Attributes:
        namespaces: namespaces of the variants; empty means all.
        selector: label selector of the VariantAutoscalings; empty means all.
        config_namespace: namespace of the ConfigMaps.
        limited: True bounds the plan by the GPUs of the nodes.
        actuate: actuator of variants that name none.
        allowed_endpoints: CIDRs, hosts and `*.DOMAIN`s that annotations may name besides a target's own pods.

    """

    config_namespace: str
    namespaces: tuple[str, ...] = ()
    selector: str = ""
    limited: bool = False
    actuate: Actuator = "hpa"
    allowed_endpoints: tuple[str, ...] = ()
