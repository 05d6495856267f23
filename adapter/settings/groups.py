"""All groups of settings, and lookups over them."""

from __future__ import annotations

from typing import Any

from adapter.settings.control import Collecting, Prometheus, Reconciling, Sizing
from adapter.settings.declaration import Declaration, declarations
from adapter.settings.serving import Cluster, Delegation, Keda, Serving

GROUPS: tuple[type[Any], ...] = (
    Serving,
    Reconciling,
    Collecting,
    Prometheus,
    Sizing,
    Cluster,
    Delegation,
    Keda,
)


def all_declarations() -> tuple[Declaration, ...]:
    """Every setting, group by group."""
    return tuple(item for group in GROUPS for item in declarations(group))


def by_key() -> dict[str, Declaration]:
    """The settings that a ConfigMap and the environment may hold, by their key."""
    return {item.key: item for item in all_declarations() if item.key}
