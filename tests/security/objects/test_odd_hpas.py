"""HorizontalPodAutoscalers by the thousand, or with lists that no API server bounds."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from adapter.kube.scale import Reference
from adapter.resources import hpa
from adapter.resources.configuration import scalers
from adapter.resources.watched import trimming
from tests.fakes import cluster_world as worlds

MANY = 5000


def with_metrics(*metrics: Any) -> Any:
    """An HPA of target `w`."""
    item = worlds.scaler("h", target="w")
    item["spec"]["metrics"] = list(metrics)
    return item


def own(names: list[str]) -> Any:
    """A metric of the adapter, of the variants with these names."""
    metric = copy.deepcopy(worlds.scaler("h")["spec"]["metrics"][0])
    expression = {"key": "variant_name", "operator": "In", "values": names}
    metric["external"]["metric"]["selector"] = {"matchExpressions": [expression]}
    return metric


NAMES = [f"v{number}" for number in range(MANY)]
OTHER = {"type": "Pods", "pods": {"metric": {"name": "m"}}}
POLICY = {"type": "Pods", "value": 1, "periodSeconds": 1}


@pytest.mark.parametrize(
    "item",
    [
        with_metrics(*[own(["v"])] * MANY),
        with_metrics(own(NAMES)),
        with_metrics(*[OTHER] * MANY),
        worlds.scaler("h", behavior={"scaleUp": {"policies": [POLICY] * MANY}}),
    ],
    ids=["own metrics", "values of one", "other metrics", "policies"],
)
def test_of_long_lists_a_part_is_kept(item: Any) -> None:
    """They were kept, and read in every join of all objects."""
    kept = trimming.scaler(item)
    assert len(repr(item)) > 40_000
    assert len(repr(kept)) < 10_000


def test_selectors_of_many_values_take_no_entry_for_each() -> None:
    """2,000 HPAs of 1,000 values took 456 MiB and 15 s of CPU in every join; those of few are found."""
    few = hpa.parse(with_metrics(own(NAMES[: scalers.MOST_SERIES])))
    many = [hpa.parse(with_metrics(own(NAMES[:500]))) for _ in range(20)]
    index = scalers.Scalers([*many, few])
    assert sum(map(len, index._by_series.values())) == scalers.MOST_SERIES
    served = hpa.served_labels(namespace="team-a", name="v0", model="m", accelerator="A100")
    assert index.of_another_target("team-a", Reference(name="x"), served) is few


def test_a_message_names_few_of_thousands() -> None:
    """The condition of one target with thousands of HPAs had all their names, megabytes of them."""
    reference = Reference(name="w")
    listed = [
        hpa.parse(
            {
                **(item := worlds.scaler("h", target="w")),
                "metadata": {**item["metadata"], "name": f"{number}{'x' * 240}"},
            }
        )
        for number in range(MANY)
    ]
    _, message = hpa.of_target(listed, reference, {})
    assert f"and {MANY - hpa.MOST_NAMED} more all scale" in message
    assert len(message) < 3000
    _, message = hpa.of_target(listed[:2], reference, {})
    assert message.startswith(f"{listed[0]} and {listed[1]} all scale")
