"""Devices that several rows of prices have, and rows of them that are gone."""

from __future__ import annotations

from adapter.installation import COSTS
from adapter.resources import schemas
from adapter.resources.config_maps import ConfigMaps
from adapter.resources.configuration import profiles
from adapter.resources.configuration.last_good import NOTHING, LastGood
from adapter.resources.stored_status import Published

H100 = "NVIDIA-H100-80GB-HBM3"


def read(*names: str, last: LastGood = NOTHING) -> ConfigMaps:
    """Rows of these names, all of one device."""
    settings = ConfigMaps([], last)
    data = dict.fromkeys(names, f'{{"device": "{H100}", "cost": 90}}')
    settings.read(f"ConfigMap s/{COSTS}", {"metadata": {"name": COSTS}, "data": data})
    return settings


def test_a_device_of_two_rows_means_neither_when_one_is_gone() -> None:
    """The other row does not take its place: what a device means stays until its row is replaced."""
    last = read("H100", "2xH100").last_good
    for _ in range(3):
        settings = read("H100", last=last)
        prices, (told,) = settings.prices([H100], [H100])
        assert prices.meant(H100) == H100
        assert f"ConfigMap s/{COSTS}: data.2xH100: is gone" in told
        assert told in settings.told
        last = settings.last_good
    # Another row of that device replaces it, and one that was alone means what it meant.
    assert read("H100", "H100x4", last=last).prices([H100], [H100])[1] == ()
    alone = read("H100")
    assert alone.prices([H100], [H100])[0].meant(H100) == "H100"
    assert read("H200", last=alone.last_good).prices([H100], [H100])[0].meant(H100) == "H200"


def test_a_row_that_is_gone_gives_way_to_another_one_of_its_device() -> None:
    """Also once both were known at one reading: they never stood side by side."""
    settings = read("H200", last=read("H100").last_good)
    for _ in range(3):
        prices, _ = settings.prices([H100, "H100"], [H100])
        assert prices.meant(H100) == "H200"
        settings = read("H200", last=settings.last_good)


def test_whoever_names_the_row_is_not_told_of_others_of_its_device() -> None:
    """Its name means that row alone, and nobody else keeps the one that is gone."""
    settings = read("H100", last=read("H100", "2xH100").last_good)
    prices, told = settings.prices(["H100"], ["H100"])
    assert (list(prices), told) == (["H100"], ())
    assert set(settings.last_good.accelerators) == {"H100"}


def test_a_row_too_many_may_be_deleted_where_nothing_was_decided_by_it() -> None:
    """Whoever was refused for two rows of its device, or last decided for the one left, is for that one."""
    both = read("H100", "2xH100").last_good
    prices, told = read("H100", last=both).prices([H100, "H100"], [H100])
    assert (prices.meant(H100), told) == ("H100", ())
    variant = schemas.VariantAutoscaling.model_validate(
        {
            "metadata": {"name": "v", "labels": {"inference.optimization/acceleratorName": H100}},
            "spec": {"modelID": "m", "scaleTargetRef": {"kind": "Deployment", "name": "v"}},
        }
    )
    decided = Published(accelerator=f"{H100}@10", replicas=1, decided_at=0.0)
    assert profiles.devices_of(variant, (), decided) == (H100,)
    assert profiles.devices_of(variant, (), None) == ()
