"""ConfigMaps with thousands of rows, and variants that none of them is for."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from adapter.planning import fleet
from adapter.resources import config_maps, schemas
from adapter.resources.configuration import last_good, profiles
from adapter.resources.configuration.indexed import Prices
from adapter.resources.texts.known import MOST_CHARACTERS, Known
from adapter.resources.wva.config import WvaConfig
from tests.fakes import cluster_world as worlds

MANY = 5000


def test_a_message_lists_some_of_thousands_of_rows() -> None:
    """Each variant without a price had a message of 33 KB, at each reading of the objects anew."""
    settings = config_maps.ConfigMaps([], last_good.NOTHING)
    rows = {
        f"A{number:04}": json.dumps({"device": f"D{number}", "cost": "1"}) for number in range(MANY)
    }
    document: Any = {"metadata": {"name": "accelerator-unit-costs"}, "data": rows}
    settings.read("ConfigMap prices", document)
    assert len(settings.accelerators) == MANY
    document = worlds.variant("v")
    del document["spec"]["modelProfile"]
    document["metadata"]["labels"] = {}
    variant = schemas.VariantAutoscaling.model_validate(document)
    with pytest.raises(last_good.MissingRowError) as error:
        profiles.accelerator(variant, (), settings.prices([])[0])
    assert "A0000, A0001, " in str(error.value)
    assert f"and {MANY - last_good.MOST_LISTED} more" in str(error.value)
    assert len(str(error.value)) < 1000


def test_devices_of_rows_are_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done for each variant: 100 of them took 0.1 s of CPU for each 100 rows."""
    rows = Prices(
        {
            f"A{n}": fleet.Accelerator(name=f"A{n}", device_type=f"Odd-{n}", unit_cost=1.0)
            for n in range(500)
        }
    )
    document = worlds.variant("v")
    del document["spec"]["modelProfile"]
    document["metadata"]["labels"] = {}
    variant = schemas.VariantAutoscaling.model_validate(document)
    splits, split = 0, re.split

    def counted(*arguments: Any) -> list[Any]:
        nonlocal splits
        splits += 1
        return split(*arguments)

    monkeypatch.setattr(re, "split", counted)
    for _ in range(3):
        with pytest.raises(last_good.MissingRowError):
            profiles.accelerator(variant, (), rows, products=("Some-GPU",))
    assert splits <= len(rows) + 1


@pytest.mark.parametrize("count", [3000, 30], ids=["short rows", "long rows"])
def test_rows_are_parsed_when_they_change(count: int) -> None:
    """Beyond 512 short rows, or 16 long ones, all were parsed again in each reading of the objects."""
    text = "name: C{}\npriority: 5\ndata:\n" + "  - {{model: m, slo-tpot: 10}}\n" * (3000 // count)
    parsed: list[str] = []
    known = Known(parsed.append)
    for _ in range(3):
        for number in range(count):
            known(text.format(number))
    assert len(parsed) == count


def test_of_texts_that_are_new_each_time_a_bounded_part_is_kept() -> None:
    """The editor of a ConfigMap can write others for ever."""
    known = Known(len)
    for number in range(100):
        assert known(f"{number:03}" + "x" * 100_000) == 100_003
    assert known._characters <= MOST_CHARACTERS
    assert sum(map(len, (text for (text,) in known._results))) <= MOST_CHARACTERS


def test_models_without_a_class_share_one() -> None:
    """Each new model of a tenant made a copy of the targets of all models before it."""
    config = WvaConfig()
    made = [config.class_of("team-b", f"m{number}", untargeted=True) for number in range(3)]
    assert made[0] is made[1] is made[2]
    assert made[0] is not None
    assert made[0].targets.keys() == {"m0", "m1", "m2"}
