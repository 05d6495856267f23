"""Reading objects: both profile shapes, and every bad input named by file, object and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from adapter import errors
from adapter.resources import folder
from analyzer.latency import LatencyParameters
from emulator.demo import scenario


def edit(path: Path, *keys: str | int, value: object) -> None:
    """Set one field of a YAML file."""
    document = yaml.safe_load(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(yaml.safe_dump(document))


def test_the_demo_objects_are_read(objects: Path) -> None:
    """A flat profile with text numbers, a class by ConfigMap key and a Deployment make a variant."""
    scenario.write_deployment(objects, ["http://127.0.0.1:8000"], 3)
    contents = folder.read(objects)
    assert contents.problems == ()
    (source,) = contents.variants
    assert source.key == "llm-d-sim/vllme-deployment"
    assert source.service_class == "Premium"
    assert (source.targets.itl_ms, source.targets.ttft_ms) == (24.0, 500.0)
    assert source.profiles[0].latency == LatencyParameters(alpha_ms=20.58, beta_ms=0.41)
    assert source.replicas == 3
    assert source.endpoints == ("http://127.0.0.1:8000/metrics",)
    assert contents.accelerators[0].unit_cost == 40.0


def test_the_newer_profile_shape_is_read(objects: Path) -> None:
    """`perfParms` with decode and prefill parameters gives all four numbers."""
    scenario.write_deployment(objects, [], 1)
    parameters = {
        "decodeParms": {"alpha": "20.58", "beta": "0.41"},
        "prefillParms": {"gamma": "5.2", "delta": "0.1"},
    }
    entry = {"acc": "A100", "accCount": 2, "perfParms": parameters, "maxBatchSize": 4}
    edit(objects / "variant.yaml", "spec", "modelProfile", "accelerators", value=[entry])
    profile = folder.read(objects).variants[0].profiles[0]
    assert profile.latency == LatencyParameters(
        alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1
    )
    assert profile.accelerator_count == 2


ACCELERATORS = ("spec", "modelProfile", "accelerators", 0)


def test_a_wrong_number_of_a_flat_profile_is_named_where_it_was_written(objects: Path) -> None:
    """The message has the field of the file, not that of the newer shape, which the model makes of it."""
    edit(objects / "variant.yaml", *ACCELERATORS, "alpha", value="20.58ms")
    (problem,) = [item for item in folder.read(objects).problems if "alpha" in item]
    assert problem.endswith(
        "spec.modelProfile.accelerators[0].alpha: must be a number, not '20.58ms'"
    )


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        pytest.param((*ACCELERATORS, "alpha"), "-1", "accelerators[0].alpha", id="negative"),
        pytest.param((*ACCELERATORS, "alpha"), "fast", "accelerators[0].alpha", id="not-a-number"),
        pytest.param((*ACCELERATORS, "beta"), "nan", "accelerators[0].beta", id="nan"),
        pytest.param((*ACCELERATORS, "maxBatchSize"), 0, "maxBatchSize", id="zero-batch"),
        pytest.param((*ACCELERATORS, "acc"), "H100", "accelerator-unit-costs", id="no-cost"),
        pytest.param(("spec", "modelID"), "other", "spec.modelID", id="no-slo"),
        pytest.param(("kind",), "Variant", "kind: 'Variant'", id="unknown-kind"),
        pytest.param(("apiVersion",), "llmd.ai/v9", "apiVersion", id="unknown-version"),
        pytest.param(
            ("metadata", "annotations"),
            {"llmd.ai/metrics-endpoints": "localhost:80"},
            "llmd.ai/metrics-endpoints",
            id="bad-endpoint",
        ),
        pytest.param(
            ("metadata", "annotations"), {"llmd.ai/replicas": "-2"}, "llmd.ai/replicas", id="count"
        ),
    ],
)
def test_a_bad_object_is_named_and_the_others_work(
    objects: Path, keys: tuple[str | int, ...], value: object, named: str
) -> None:
    """The problem names file, object and field, and a second variant is still read."""
    scenario.write_deployment(objects, [], 1)
    good = yaml.safe_load((objects / "variant.yaml").read_text())
    good["metadata"]["name"] = "good"
    good["metadata"]["annotations"] = {"llmd.ai/replicas": "1"}
    (objects / "good.yaml").write_text(yaml.safe_dump(good))
    edit(objects / "variant.yaml", *keys, value=value)
    contents = folder.read(objects)
    assert [source.name for source in contents.variants] == ["good"]
    (problem,) = contents.problems
    assert problem.startswith("variant.yaml: ")
    assert "llm-d-sim/vllme-deployment" in problem
    assert named in problem


def test_an_error_while_problems_are_collected_is_its_variants(
    objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that one variant's objects make of us ends the reading of the others."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("adapter.resources.configuration.refused.all_problems", broken)
    scenario.write_deployment(objects, [], 1)
    good = yaml.safe_load((objects / "variant.yaml").read_text())
    good["metadata"] |= {"name": "good", "annotations": {"llmd.ai/replicas": "1"}}
    (objects / "good.yaml").write_text(yaml.safe_dump(good))
    edit(objects / "variant.yaml", "metadata", "annotations", value={"llmd.ai/replicas": "-2"})
    contents = folder.read(objects)
    assert [source.name for source in contents.variants] == ["good"]
    (refused,) = contents.refused
    assert (refused.name, refused.reason) == ("vllme-deployment", "InvalidConfiguration")
    assert "ZeroDivisionError" in refused.message


def test_broken_yaml_is_named_and_the_rest_is_read(objects: Path) -> None:
    """A file that is not YAML is one problem, not the end."""
    scenario.write_deployment(objects, [], 1)
    (objects / "broken.yaml").write_text("a: [1,")
    contents = folder.read(objects)
    assert len(contents.variants) == 1
    assert contents.problems[0].startswith("broken.yaml: not valid YAML")


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
def test_a_folder_without_files_is_refused(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    """A missing or empty folder is an error that names it."""
    path = tmp_path / "none"
    if exists:
        path.mkdir()
    with pytest.raises(errors.InputError, match="none"):
        folder.read(path)


def test_without_a_named_class_the_highest_priority_one_counts(objects: Path) -> None:
    """A model in two classes goes to the one with the lower priority number."""
    scenario.write_deployment(objects, [], 1)
    edit(objects / "variant.yaml", "spec", "sloClassRef", value={"name": ""})
    levels = [{"model": "default/default", "slo-tpot": 100, "slo-ttft": 1000}]
    classes = {
        key: json.dumps({"name": key, "priority": priority, "data": levels})
        for key, priority in (("later", 7), ("first", 2), ("last", 100))
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "service-classes-config"},
        "data": classes,
    }
    costs = yaml.safe_load_all((objects / "configmaps.yaml").read_text())
    (objects / "configmaps.yaml").write_text(yaml.safe_dump_all([next(iter(costs)), config_map]))
    assert folder.read(objects).variants[0].service_class == "first"


def test_a_changed_file_changes_the_digest(objects: Path) -> None:
    """Any change of a file is noticed, even within one second and at the same size."""
    before = folder.digest(objects)
    text = (objects / "variant.yaml").read_text()
    (objects / "variant.yaml").write_text(text.replace("20.58", "20.59"))
    assert folder.digest(objects) != before


@pytest.mark.parametrize("text", ["a: [1,", ""], ids=["broken", "empty"])
def test_a_file_of_config_maps_that_breaks(objects: Path, text: str) -> None:
    """The last good rows stay in force, and the variant's warnings say so."""
    scenario.write_deployment(objects, [], 1)
    before = folder.read(objects)
    (objects / "configmaps.yaml").write_text(text)
    after = folder.read(objects, last_good=before.last_good)
    assert after.service_classes[0].targets == {
        "default/default": before.service_classes[0].targets["default/default"]
    }
    (was,), (now,) = before.variants, after.variants
    assert (now.targets, now.accelerator, now.profiles) == (
        was.targets,
        was.accelerator,
        was.profiles,
    )
    assert len(now.warnings) == 2
    assert all("is gone; the last good value stays in force" in item for item in now.warnings)
    assert folder.read(objects, last_good=after.last_good).variants == after.variants
    assert folder.read(objects).variants == ()


@pytest.mark.parametrize("dated", [False, True])
def test_one_target_of_two_objects(objects: Path, dated: bool) -> None:  # noqa: FBT001
    """Of files the usable object owns the target, then the first by name; in a cluster always the older."""
    scenario.write_deployment(objects, ["http://127.0.0.1:8000"], 3)
    document = yaml.safe_load((objects / "variant.yaml").read_text())
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": document["metadata"]["name"]}
    for number, (name, acc) in enumerate([("a-broken", "H100"), ("b", "A100"), ("c", "A100")]):
        document["metadata"] |= {"name": name}
        if dated:
            document["metadata"] |= {"creationTimestamp": f"2026-01-0{number + 1}T00:00:00Z"}
        document["spec"]["scaleTargetRef"] = target
        document["spec"]["modelProfile"]["accelerators"][0]["acc"] = acc
        (objects / f"{name}.yaml").write_text(yaml.safe_dump(document))
    (objects / "variant.yaml").unlink()
    contents = folder.read(objects)
    said = {item.name: item.message for item in contents.refused}
    assert "H100" in said["a-broken"]
    if dated:
        assert contents.variants == ()
        assert "VariantAutoscaling a-broken, which is older;" in said["b"]
    else:
        assert [source.key for source in contents.variants] == ["llm-d-sim/b"]
        assert "VariantAutoscaling b, which comes first by name;" in said["c"]
