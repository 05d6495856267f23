"""Thousands of rows of ConfigMaps beside thousands of variants: rows are looked up, not gone through."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from adapter import errors
from adapter.installation import CLASSES, COSTS, WVA_QUEUEING, WVA_TO_ZERO
from adapter.kube.scale import Reference
from adapter.planning import fleet
from adapter.resources import config_maps, schemas
from adapter.resources import variant as variants
from adapter.resources.configuration import last_good
from adapter.resources.configuration.scalers import Scalers
from adapter.resources.serving import roles
from tests.fakes import cluster_world as worlds

FEW, MANY = 30, 120
"""Rows, and as many variants."""


def steps(work: Callable[[], object]) -> int:
    """Instructions of the interpreter that the adapter's own code takes for it."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        if "/adapter/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)  # that of coverage, which would measure nothing from here on
    return count


def prices(number: int) -> Mapping[str, str]:
    """Rows of so many accelerators."""
    return {f"A{n:04}": json.dumps({"device": f"H{100 + n}-x", "cost": "1"}) for n in range(number)}


def classes(number: int) -> Mapping[str, str]:
    """Rows of so many service classes, of one model each."""
    text = "name: C{0}\npriority: 5\ndata:\n  - {{model: m{0}, slo-tpot: 10, slo-ttft: 100}}\n"
    return {f"c{n}": text.format(n) for n in range(number)}


def one_class(number: int) -> Mapping[str, str]:
    """One service class of so many models."""
    models = (f"  - {{model: m{n}, slo-tpot: 10}}\n" for n in range(number))
    return {"c": f"name: C\npriority: 5\ndata:\n{''.join(models)}"}


def entries(number: int) -> Mapping[str, str]:
    """Entries of the other autoscaler, of one model each."""
    text = "model_id: m{}\ntargetTTFT: 100\nenable_scale_to_zero: true\n"
    return {f"k{n}": text.format(n) for n in range(number)}


def no_rows(_: int) -> Mapping[str, str]:
    return {}


Rows = Callable[[int], Mapping[str, str]]


def read(last: last_good.LastGood, **maps: Mapping[str, str]) -> config_maps.ConfigMaps:
    """ConfigMaps of these rows."""
    settings = config_maps.ConfigMaps([], last)
    for name, data in maps.items():
        settings.read(f"ConfigMap s/{name}", {"metadata": {"name": name}, "data": data})
    return settings


def joined(settings: config_maps.ConfigMaps, number: int, **spec: Any) -> None:
    """So many variants, each of a model of its own and with a GPU of its own."""
    for n in range(number):
        document = worlds.variant(f"v{n}", modelID=f"m{n}", **spec)
        document["metadata"]["labels"] = {}
        for name in ("modelProfile", "sloClassRef"):
            if name not in spec:
                document["spec"].pop(name, None)
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"v{n}"}
        document["spec"]["scaleTargetRef"] = reference
        item = schemas.VariantAutoscaling.model_validate(document)
        target = variants.Target(replicas=1, spec_replicas=1, products=(f"H{100 + n}-x",))
        try:
            variants.source(item, target, settings, scalers=Scalers())
        except errors.InputError as error:
            assert isinstance(error, last_good.MissingRowError)  # noqa: PT017 - some have no row
    assert settings.last_good is not None
    assert settings.service_classes is not None


UNKNOWN = {"name": "nothing-here"}


@pytest.mark.parametrize(
    ("maps", "now", "spec"),
    [
        ({COSTS: prices, CLASSES: one_class}, {}, {}),
        ({COSTS: prices, CLASSES: one_class}, {COSTS: no_rows}, {}),
        ({CLASSES: classes}, {}, {"variantCost": "1"}),
        ({CLASSES: classes}, {}, {"variantCost": "1", "sloClassRef": UNKNOWN}),
        ({CLASSES: classes}, {}, {"variantCost": "1", "sloClassRef": {"name": "c1"}}),
        ({CLASSES: classes}, {CLASSES: no_rows}, {"variantCost": "1"}),
        ({WVA_QUEUEING: entries}, {}, {"variantCost": "1"}),
        ({WVA_TO_ZERO: entries, CLASSES: one_class}, {}, {"variantCost": "1"}),
    ],
    ids=[
        "prices",
        "prices that are gone",
        "classes",
        "a class that there is not",
        "a class that lists other models",
        "classes that are gone",
        "targets of the other autoscaler",
        "scale to zero of the other autoscaler",
    ],
)
def test_steps_go_with_rows_and_variants(
    maps: Mapping[str, Rows], now: Mapping[str, Rows], spec: Mapping[str, Any]
) -> None:
    """Each variant went through all rows: 5,000 of both took seconds of CPU in every join, or minutes."""

    def taken(number: int) -> int:
        given = {name: rows(number) for name, rows in maps.items()}
        first = read(last_good.NOTHING, **given)
        joined(first, number, **spec)
        replaced = {name: rows(number) for name, rows in now.items()}
        last = first.last_good if now else last_good.NOTHING
        # What parsing takes is the same in each.
        return steps(lambda: joined(read(last, **{**given, **replaced}), number, **spec))

    taken(2)
    assert taken(MANY) < 1.25 * MANY / FEW * taken(FEW)


def test_classes_of_roles_are_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new model of a tenant, whose pods only prefill, made a copy of the targets of all before it."""
    copied = 0

    def counted(item: Any, **changes: Any) -> Any:
        nonlocal copied
        copied += len(changes.get("targets", ())) if isinstance(item, fleet.ServiceClass) else 0
        return replace(item, **changes)

    monkeypatch.setattr(roles, "replace", counted)
    given = fleet.ServiceClass(name="C", priority=1, targets={})
    known = roles.RoleClasses()
    source = variants.VariantSource(
        namespace="t",
        name="v",
        model="m",
        service_class="C",
        profiles=(),
        targets=fleet.Targets(ttft_ms=100.0, itl_ms=10.0),
        accelerator="",
        endpoints=(),
        replicas=1,
        role=roles.PREFILL,
        reference=Reference(name="v"),
    )
    for number in range(FEW):
        known.apply(replace(source, model=f"m{number}"), {"C": given}.get)
    (made,) = known.classes
    assert made.targets == {f"m{n}": fleet.Targets(ttft_ms=100.0) for n in range(FEW)}
    assert copied == FEW


def test_all_prices_gone_are_not_listed_for_each_variant() -> None:
    """5,000 variants had 5,000 lines each, gigabytes of them, where the ConfigMap of prices was emptied."""
    first = read(last_good.NOTHING, **{COSTS: prices(MANY)})
    settings = read(replace_used(first), **{COSTS: {}})
    in_force, notes = settings.prices([])
    assert len(in_force) == MANY
    assert len(notes) <= 3
    assert len(settings.told) == MANY


def replace_used(settings: config_maps.ConfigMaps) -> last_good.LastGood:
    """What is in force after it."""
    settings.prices([])
    return settings.last_good
