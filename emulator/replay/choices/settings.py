"""Settings of the adapter that a sweep varies: `adapter.percentile=0.9,0.95,0.99`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter import errors
from adapter.app.flag_options import loop_settings
from adapter.controller.settings import LoopSettings
from adapter.settings.control import Collecting, Reconciling, Sizing
from adapter.settings.declaration import Declaration, declarations
from emulator.replay.scenario import Scenario

PREFIX = "adapter."
PERCENTILE = "percentile"
"""Percentile of the latencies that the SLO targets bound, as a share; the adapter has it in its SLOs."""

_ELSEWHERE = frozenset({"gateway_metrics", "keep_accelerator", "limited", "metrics_source"})
"""Settings of these groups without a meaning in a replay, or fixed by its scenario."""

DECLARED: Mapping[str, Declaration] = {
    item.name: item
    for group in (Reconciling, Collecting, Sizing)
    for item in declarations(group)
    if item.name not in _ELSEWHERE
}
NAMES = (PERCENTILE, *DECLARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Values of one setting, each as its text and as the adapter takes it."""

    name: str
    values: tuple[tuple[str, Any], ...]


def parse(text: str) -> Sweep:
    """Read `adapter.NAME=VALUE,VALUE`.

    Raises:
        UsageError: There is no such setting, or it does not take a value; the message says what there is.

    """
    name, equals, values = text.partition("=")
    name = name.strip()
    setting = name.removeprefix(PREFIX).replace("-", "_")
    if not name.startswith(PREFIX) or setting not in NAMES:
        hint = errors.did_you_mean(setting, NAMES, prefix=PREFIX)
        raise errors.UsageError(f"--sweep: no setting {name!r}{hint}")
    parts = [part.strip() for part in values.split(",") if part.strip()]
    if not equals or not parts:
        raise errors.UsageError(
            f"--sweep {name}: has no values; write {name}=VALUE,VALUE, such as adapter.percentile=0.9,0.99"
        )
    return Sweep(name=setting, values=tuple((part, _value(name, setting, part)) for part in parts))


def _value(name: str, setting: str, text: str) -> Any:
    if setting == PERCENTILE:
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        # As everywhere: at most half of the requests may miss the targets.
        if not 0.5 <= share < 1:
            raise errors.UsageError(
                f"--sweep {name}: must be shares from 0.5 and below 1, such as 0.95 for p95, not {text!r}"
            )
        return share
    try:
        return DECLARED[setting].parse(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise errors.UsageError(f"--sweep {name}: {error}") from error


def grid(sweeps: Sequence[Sweep]) -> tuple[dict[str, str], ...]:
    """Every combination of the values, as texts by setting; none without a sweep.

    Raises:
        UsageError: A setting is swept twice.

    """
    names = [sweep.name for sweep in sweeps]
    for name in names:
        if names.count(name) > 1:
            raise errors.UsageError(
                f"--sweep {PREFIX}{name}: is there twice; list all values in one"
            )
    combinations = itertools.product(*([text for text, _ in sweep.values] for sweep in sweeps))
    return tuple(dict(zip(names, item, strict=True)) for item in combinations) if sweeps else ()


def applied(
    base: LoopSettings, scenario: Scenario, values: Mapping[str, str]
) -> tuple[LoopSettings, float | None]:
    """The settings with these values, and the percentile among them (None: not there).

    Args:
        base: Settings without the values.
        scenario: Scenario, whose intervals the base has.
        values: Texts by setting, as `grid` gives them.

    """
    percentile = float(values[PERCENTILE]) if PERCENTILE in values else None
    given = {
        name: DECLARED[name].parse(text) for name, text in values.items() if name != PERCENTILE
    }
    own: dict[str, Any] = {
        "interval": scenario.loop.interval,
        "scrape_interval": scenario.loop.scrape_interval,
    }
    plain = loop_settings(argparse.Namespace(**own), in_cluster=True)
    changed = loop_settings(argparse.Namespace(**own | given), in_cluster=True)
    return _changes(base, plain, changed), percentile


def _changes(base: Any, plain: Any, changed: Any) -> Any:
    """The base with what differs between the other two, nested dataclasses field by field."""
    updates = {}
    for field in dataclasses.fields(base):
        mine, before, after = (getattr(item, field.name) for item in (base, plain, changed))
        if before != after:
            nested = dataclasses.is_dataclass(after) and type(after) is type(mine)
            updates[field.name] = _changes(mine, before, after) if nested else after
    return dataclasses.replace(base, **updates)
