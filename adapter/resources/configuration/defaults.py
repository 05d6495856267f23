"""Rows of prices and service classes that an installation brings, in ConfigMaps that people do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter.installation import DEFAULTS_SUFFIX
from adapter.resources.configuration.last_good import NamedClass, PricedAccelerator


def is_default(where: str, name: str) -> bool:
    """Whether a place is a row of the defaults of a ConfigMap."""
    return f"{name}{DEFAULTS_SUFFIX}: " in where


class Written:
    """Keys of the rows that people wrote, which hide the defaults of the same keys."""

    def __init__(self) -> None:
        self._own: set[tuple[str, str]] = set()

    def counts(
        self,
        where: str,
        config_map: str,
        key: str,
        *,
        rows: dict[str, Any],
        last: Mapping[str, PricedAccelerator] | Mapping[str, NamedClass],
    ) -> bool:
        """Whether a row is the one of its key: a default is none where people have, or had, written one.

        Args:
            where: place of the ConfigMap, for messages.
            config_map: name of the ConfigMap that people edit.
            key: key of the row.
            rows: rows read so far; a default that the row hides is removed.
            last: rows in force at the last reading.

        """
        if not where.endswith(DEFAULTS_SUFFIX):
            self._own.add((config_map, key))
            rows.pop(key, None)
            return True
        before = last.get(key)
        had = before is not None and not is_default(before.where, config_map)
        return not had and (config_map, key) not in self._own
