"""Whatever a tenant's objects hold at any place, the variants of others are read: no cycle ends by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from adapter.resources import hpa
from tests.fuzz import neighbours, readers

TEXTS = ("\u00b2", "9" * 5000, "http://[", "\ud800", "", "-", "a" * 70_000, "1e9", "2020-13-45")
NUMBERS = (-1, 0, 10**18)
OTHER_TYPES = ("x", 7, 1.5, True, [1], [None], {"a": 1}, {"a": ["b"]})


@pytest.mark.parametrize("kind", sorted(neighbours.KINDS))
def test_no_value_at_any_place_takes_away_other_variants(kind: str) -> None:
    """Texts that are no numbers, long ones, and numbers that are none of anything."""
    sample = neighbours.KINDS[kind][0]
    for of, values in ((str, TEXTS), (int, NUMBERS)):
        for path in neighbours.places(kind, of):
            for value in values:
                neighbours.check(kind, readers.replaced(sample, path, value))


@pytest.mark.parametrize("kind", sorted(neighbours.KINDS))
def test_no_value_of_another_type_takes_away_other_variants(kind: str) -> None:
    """An API server checks the types that it knows; what stands between, or a loose schema, may not."""
    sample = neighbours.KINDS[kind][0]
    for path in {*neighbours.places(kind, object)} - {()}:
        for value in OTHER_TYPES:
            neighbours.check(kind, readers.replaced(sample, path, value))


@pytest.mark.parametrize("port", ["\u00b2", "9" * 5000, "0", "65536", "-1", "+80", " 80"])
@pytest.mark.parametrize("kind", ["monitors", "service_monitors"])
def test_a_port_that_is_none_is_not_used(kind: str, port: str) -> None:
    """Pods keep their own URLs; such a port ended every cycle."""
    sample = neighbours.KINDS[kind][0]
    spec = sample["spec"]
    name = "podMetricsEndpoints" if kind == "monitors" else "endpoints"
    document = {**sample, "spec": {**spec, name: [{"targetPort": port}]}}
    read = neighbours.joined(kind, document)
    assert not [line for line in read.problems if "cannot be used" in line]


def test_a_managed_hpa_that_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and nothing else is missing."""

    def broken(item: Mapping[str, Any]) -> hpa.Scaler:
        raise RuntimeError(item)

    monkeypatch.setattr(hpa, "parse", broken)
    read = neighbours.joined("scalers", neighbours.SCALER)
    assert "HorizontalPodAutoscaler tenant/h: cannot be read (RuntimeError)" in read.problems
    neighbours.check("scalers", neighbours.SCALER)


def test_an_odd_annotation_is_named_while_config_maps_are_broken() -> None:
    """The variant would be held at the target of its status; the condition said only that it cannot be."""
    notes = {"llmd.ai/metrics-endpoints": "gopher://x"}
    metadata = {"namespace": neighbours.TENANT, "name": "v", "annotations": notes}
    published = {
        "numReplicas": 3, "accelerator": "A100", "lastRunTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    status = {"desiredOptimizedAlloc": published}
    read = neighbours.joined(
        "variants", {**neighbours.VARIANT, "metadata": metadata, "status": status}
    )
    (refused,) = (item for item in read.refused if item.name == "v")
    assert "llmd.ai/metrics-endpoints" in refused.message
