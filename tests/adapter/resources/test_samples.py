"""The samples in the repo are usable as they are."""

from __future__ import annotations

from pathlib import Path

import yaml

from adapter.formats import fleet_file
from adapter.planning import plan
from adapter.resources import folder

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"


def test_the_sample_folder_is_read_without_problems() -> None:
    """`serve --variants manifests/samples/folder` has nothing to complain of."""
    contents = folder.read(SAMPLES / "folder")
    assert contents.problems == ()
    assert [source.key for source in contents.variants] == ["llm-d-sim/vllme-deployment"]


def test_the_sample_hpa_selects_the_sample_variant() -> None:
    """The HPA asks for the variant's metric as AverageValue 1, without tolerance."""
    spec = yaml.safe_load((SAMPLES / "hpa.yaml").read_text())["spec"]
    external = spec["metrics"][0]["external"]
    variant = folder.read(SAMPLES / "folder").variants[0]
    assert external["metric"]["selector"]["matchLabels"] == {"variant_name": variant.name}
    assert external["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert spec["behavior"]["scaleUp"]["tolerance"] == 0


def test_the_sample_fleet_is_planned_without_problems() -> None:
    """`plan -f manifests/samples/fleet.yaml` serves everyone, and the documentation shows its cost."""
    path = SAMPLES / "fleet.yaml"
    snapshot, left_out = fleet_file.parse(fleet_file.read(path), str(path))
    fleet_plan = plan.plan(snapshot)
    assert (left_out, dict(fleet_plan.set_aside)) == ({}, {})
    assert {decision.served for decision in fleet_plan.decisions.values()} == {"full"}
    assert fleet_plan.termination == "optimal"
    for page in ("README.md", "docs/optimizer.md"):
        text = (SAMPLES.parents[1] / page).read_text()
        assert f"{fleet_plan.total_cost:g} cents/h; served 3 in full" in text
