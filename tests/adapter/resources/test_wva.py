"""What the workload-variant-autoscaler left: objects of all shapes, its ConfigMaps, managed HPAs."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.installation import COSTS, WVA_QUEUEING, WVA_SATURATION
from adapter.planning import fleet
from adapter.resources import inputs, schemas
from adapter.resources import variant as variants
from adapter.resources.variant import VariantSource
from adapter.resources.wva import config, managed
from tests.fakes import cluster_world as worlds
from tests.fakes.kubernetes_objects import SCHEMA

AUG = {"acc": "A100", "accCount": 1, "alpha": "20.58", "beta": "0.41", "maxBatchSize": 4}
OCT = {
    "acc": "A100",
    "accCount": 2,
    "perfParms": {
        "decodeParms": {"alpha": "20.5", "beta": "0.41"},
        "prefillParms": {"gamma": "5.2", "delta": "0.1"},
    },
    "maxBatchSize": 256,
}
REFERENCE = {"kind": "Deployment", "name": "v", "apiVersion": "apps/v1"}
CLASS = "name: Premium\npriority: 1\ndata:\n  - model: m\n    slo-itl: 24\n    slo-ttw: 500\n"


def read(
    spec: dict[str, Any],
    labels: dict[str, str] | None = None,
    target: dict[str, str] | None = None,
    **config_maps: dict[str, str],
) -> inputs.Inputs:
    """A variant with its Deployment, costs of two accelerators, and other ConfigMaps."""
    reader = inputs.Reader()
    costs = {
        "A100": '{"device": "NVIDIA-A100", "cost": 40}',
        "H100": '{"device": "NVIDIA-H100", "cost": 90}',
    }
    for name, data in {COSTS: costs, **config_maps}.items():
        document: dict[str, Any] = {"metadata": {"name": name.replace("_", "-")}, "data": data}
        reader.read_config_map(f"ConfigMap s/{name.replace('_', '-')}", document)
    metadata = {"name": "v", "namespace": "n", "labels": labels or {}}
    deployment = {"kind": "Deployment", "apiVersion": "apps/v1"}
    reader.read_object("", {**deployment, "metadata": {**metadata, "annotations": target or {}}})
    variant = {
        "kind": "VariantAutoscaling",
        "apiVersion": "llmd.ai/v1alpha1",
        "metadata": metadata,
    }
    reader.read_object("", {**variant, "spec": spec})
    return reader.inputs()


def only(read_inputs: inputs.Inputs) -> VariantSource:
    assert read_inputs.problems == ()
    (source,) = read_inputs.variants
    return source


@pytest.mark.parametrize("entry", [AUG, OCT], ids=["August", "October"])
def test_shapes_of_2025(entry: dict[str, Any]) -> None:
    """A profile in either form, with the class and the old spellings of its targets."""
    spec = {
        "modelID": "m",
        "sloClassRef": {"name": "premium", "key": "m"},
        "modelProfile": {"accelerators": [entry]},
    }
    source = only(read(spec, service_classes_config={"premium": CLASS}))
    assert (source.service_class, source.accelerator) == ("Premium", "A100")
    assert source.targets == fleet.Targets(itl_ms=24, ttft_ms=500)
    assert source.profiles[0].accelerator_count == entry["accCount"]
    assert (source.min_replicas, source.max_replicas) == (None, None)


def test_shape_of_february_2026() -> None:
    """Neither class nor profile nor price: its own cost prices the replicas, and nothing is refused."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m", "variantCost": "10.0"}
    read_inputs = read(
        spec, service_classes_config={"premium": CLASS.replace("model: m", "model: o")}
    )
    source = only(read_inputs)
    assert (source.service_class, source.targets) == (config.NO_CLASS, fleet.Targets())
    assert (source.profiles, source.accelerator, source.device) == ((), "unknown@10", "unknown")
    assert {item.name: item.unit_cost for item in read_inputs.accelerators}["unknown@10"] == 10
    planned = {item.name: item.targets for item in read_inputs.service_classes}
    assert planned[config.NO_CLASS] == {"m": fleet.Targets()}


def test_an_object_of_2026_that_names_no_price() -> None:
    """The CRD of its autoscaler had one for it: that holds; what may mean a row is refused."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m"}
    source = only(read(spec))
    assert (source.accelerator, source.own_accelerator is not None) == ("unknown@10", True)
    assert (source.price_assumed, source.warnings) == (True, ())
    (typo,) = read(spec, {"inference.optimization/acceleratorName": "H10O"}).refused
    assert "its value 'H10O' has no cost" in typo.message
    (old,) = read({"modelID": "m"}, service_classes_config={"premium": CLASS}).refused
    assert "give a profile or spec.variantCost" in old.message


def test_a_leader_worker_set_without_its_group() -> None:
    """The other autoscaler finds it by its kind alone; a Deployment of that name is another object."""
    item = {"kind": "LeaderWorkerSet", "name": "v"}
    named = schemas.ScaleTargetReference.model_validate(item)
    assert variants.referred(named).api_version == "leaderworkerset.x-k8s.io/v1"


def test_shape_of_0_6_to_0_9() -> None:
    """Bounds of the spec hold; a class that lists the model applies; the label names the accelerator."""
    spec = {
        "scaleTargetRef": REFERENCE, "modelID": "m", "variantCost": "10.0",
        "minReplicas": 2, "maxReplicas": 3,
    }  # fmt: skip
    label = {"inference.optimization/acceleratorName": "H100"}
    source = only(read(spec, label, service_classes_config={"premium": CLASS}))
    assert (source.min_replicas, source.max_replicas) == (2, 3)
    assert (source.accelerator, source.own_accelerator) == ("H100", None)
    assert source.targets.itl_ms == 24
    noted = {"llmd.ai/max-replicas": "50", "llmd.ai/min-replicas": "1"}
    target = only(read(spec, label, target=noted, service_classes_config={"premium": CLASS}))
    assert (target.min_replicas, target.max_replicas) == (2, 3)
    zero = only(read({**spec, "minReplicas": 0}, label, service_classes_config={"premium": CLASS}))
    assert (zero.min_replicas, zero.scale_to_zero) == (0, True)


@pytest.mark.parametrize(
    ("label", "meant"),
    [("A100", "A100"), ("a100", "A100"), ("NVIDIA-A100-SXM4-80GB", "A100"), ("L40S", "L40S")],
)
def test_a_label_names_the_accelerator_or_its_device(label: str, meant: str) -> None:
    """In any case, and as feature discovery labels the nodes; another one is not taken for it."""
    spec = {"modelID": "m", "modelProfile": {"accelerators": [AUG, {**OCT, "acc": "H100"}]}}
    labels = {"inference.optimization/acceleratorName": label}
    source = only(read(spec, labels, service_classes_config={"premium": CLASS}))
    assert source.accelerator == meant


def test_a_label_that_may_mean_two_accelerators_means_neither() -> None:
    """One device under two names, such as single GPUs and pairs."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m"}
    labels = {"inference.optimization/acceleratorName": "NVIDIA-A100-SXM4-80GB"}
    costs = dict.fromkeys(("A100", "2xA100"), '{"device": "NVIDIA-A100", "cost": 40}')
    (refused,) = read(
        spec, labels, accelerator_unit_costs=costs, service_classes_config={"premium": CLASS}
    ).refused
    assert "its value 'NVIDIA-A100-SXM4-80GB' has no cost" in refused.message


def test_bounds_that_contradict_each_other() -> None:
    """Fields and annotations are named as they stand."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m", "minReplicas": 4, "maxReplicas": 3}
    (refused,) = read(spec, {"inference.optimization/acceleratorName": "A100"}).refused
    assert refused.message == "spec.minReplicas: 4 is more than spec.maxReplicas 3"


@pytest.mark.parametrize("data", [{}, {"premium": CLASS.replace("slo-itl: 24", "slo-itl: fast")}])
def test_without_classes_no_target_is_no_statement(data: dict[str, str]) -> None:
    """An object of 2026 is not served without targets where the class that lists it is broken."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m", "variantCost": "10.0"}
    read_inputs = read(spec, service_classes_config=data)
    assert len(read_inputs.refused) == (1 if data else 0)
    old = {"modelID": "m", "variantCost": "10.0"}
    assert "no service class lists" in read(old, service_classes_config=data).refused[0].message


QUEUEING = {
    "default": "sloMultiplier: 3.0\ntuningEnabled: true\n",
    "here": "model_id: m\nnamespace: n\ntargetTTFT: 500.0\ntargetITL: 50.0\n",
    "there": "model_id: m\nnamespace: o\ntargetTTFT: 1\ntargetITL: 1\n",
}
ZERO = {
    "default": "enable_scale_to_zero: true\nretention_period: 15m\n",
    "here": 'model_id: m\nnamespace: n\nretention_period: "5m"\n',
}


def test_config_maps_of_2026() -> None:
    """Targets and scale to zero of a model, by namespace before the default; annotations come first."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m", "variantCost": "10.0"}
    maps = {"wva_queueing_model_config": QUEUEING, "wva_model_scale_to_zero_config": ZERO}
    source = only(read(spec, **maps))
    assert source.targets == fleet.Targets(itl_ms=50, ttft_ms=500)
    assert source.service_class == "wva-queueing-model-config/here"
    assert (source.scale_to_zero, source.retention_seconds) == (True, 300)
    other = only(read({**spec, "modelID": "o"}, **maps))
    assert (other.targets, other.retention_seconds) == (fleet.Targets(), 900)
    off = {"default": "kvCacheThreshold: 0.8\nscaleToZero: {enabled: false}\n"}
    never = only(read({**spec, "minReplicas": 0}, wva_saturation_scaling_config=off, **maps))
    assert (never.scale_to_zero, never.min_replicas) == (False, None)


def test_broken_entries_of_2026() -> None:
    """Each is a line with ConfigMap, key, line and field; the others hold."""
    maps = {
        "wva_queueing_model_config": {"a": "model_id: m\ntargetITL: fast\n", "b": "a: ["},
        "wva_model_scale_to_zero_config": {**ZERO, "c": "model_id: x\nretention_period: soon\n"},
    }
    read_inputs = read({"scaleTargetRef": REFERENCE, "modelID": "o", "variantCost": "1"}, **maps)
    assert len(read_inputs.variants) == 1
    wrong, broken, late = read_inputs.problems
    place = "ConfigMap s/wva-queueing-model-config: data."
    assert wrong.startswith(f"{place}a: line 2: targetITL: must be a number")
    assert broken.startswith(f"{place}b: not valid YAML")
    assert "data.c: line 2: retention_period: must be a duration" in late


def hpa(**annotations: str) -> dict[str, Any]:
    item = worlds.scaler("v")
    notes = {managed.MANAGED: "true", managed.MODEL: "m", **annotations}
    item["metadata"]["annotations"] = {key: value for key, value in notes.items() if value}
    return item


def test_an_hpa_that_stands_for_a_variant() -> None:
    """Its annotations say what a VariantAutoscaling would; KEDA's has its ScaledObject's name."""
    document = managed.variant_of(hpa(**{managed.COST: "12.5"}))
    assert document is not None
    assert document["metadata"]["name"] == "v"
    assert document["spec"] == {
        "modelID": "m",
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"},
        "variantCost": "12.5",
    }
    item = hpa()
    item["metadata"] |= {
        "name": "keda-hpa-s",
        "ownerReferences": [{"kind": "ScaledObject", "name": "s"}],
    }
    document = managed.variant_of(item)
    assert document is not None
    assert document["metadata"]["name"] == "s"


@pytest.mark.parametrize(
    "notes", [{managed.MANAGED: ""}, {managed.MANAGED: "false"}, {managed.EXCLUDE: "true"}]
)
def test_hpas_that_stand_for_none(notes: dict[str, str]) -> None:
    """Without the annotation, or excluded, an HPA is an HPA."""
    assert managed.variant_of(hpa(**notes)) is None


def test_the_published_shapes_are_admitted() -> None:
    """The CRD keeps the fields of 2026 rather than dropping them."""
    fields = SCHEMA["properties"]["spec"]["properties"]
    assert {"scaleTargetRef", "minReplicas", "maxReplicas", "variantCost"} <= set(fields)
    assert SCHEMA["properties"]["spec"]["required"] == ["modelID"]


def test_shape_of_the_configuration_guide() -> None:
    """One accelerator beside its profile; the class is the key of a ConfigMap that is named."""
    profile = {"maxBatchSize": 256, "perfParms": OCT["perfParms"]}
    spec = {
        "modelID": "m", "variantID": "m-A100-1", "accelerator": "A100", "acceleratorCount": 2,
        "sloClassRef": {"name": "serviceclass", "key": "Premium"}, "variantProfile": profile,
    }  # fmt: skip
    source = only(read(spec, service_classes_config={"premium": CLASS}))
    assert (source.service_class, source.accelerator) == ("Premium", "A100")
    (given,) = source.profiles
    assert (given.accelerator_count, given.max_batch) == (2, 256)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"maxReplica": 3}, "spec.maxReplica"),
        ({"scaleTargetRef": {**REFERENCE, "namespace": "n"}}, "spec.scaleTargetRef.namespace"),
        (
            {"modelProfile": {"accelerators": [{**OCT, "maxBatch": 3}]}},
            "spec.modelProfile.accelerators[0].maxBatch",
        ),
        (
            {"modelProfile": {"accelerators": [{**OCT, "engine": {"max_num_seqs": 8}}]}},
            "spec.modelProfile.accelerators[0].engine.max_num_seqs",
        ),
    ],
)
def test_a_field_that_is_not_known_is_named(spec: dict[str, Any], path: str) -> None:
    """A mistyped field changes nothing, and a folder has no API server that refuses it."""
    spec = {"modelID": "m", "modelProfile": {"accelerators": [AUG]}, **spec}
    given = read(spec, service_classes_config={"premium": CLASS})
    (problem,) = given.problems
    assert f": {path}: is not known and changes nothing; known are " in problem
    assert len(given.variants) == 1


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"m": "model_id: m\ntargetTTFT: 500\ntargetTTFT: 100\n"}, "line 3: targetTTFT: is given twice"),
        ({"m": "targetTTFT: 500\n"}, "data.m: model_id: is missing"),
        (
            {"a": "model_id: m\ntargetTTFT: 500\n", "b": "model_id: m\ntargetTTFT: 100\n"},
            "data.b: model_id: the model is listed twice, in data.a too",
        ),
    ],
)  # fmt: skip
def test_an_entry_of_2026_that_does_not_say_one_thing(entries: dict[str, str], said: str) -> None:
    """It is named and left out, rather than one of its two values taken."""
    spec = {"scaleTargetRef": REFERENCE, "modelID": "m", "variantCost": "1"}
    problem = read(spec, wva_queueing_model_config=entries).problems[0]
    assert said in problem


def test_keys_of_2026_that_change_nothing_are_named() -> None:
    """Rules of the other autoscaler, and mistyped targets, which would else be none."""
    reader = inputs.Reader()
    for name, text in (
        (
            WVA_SATURATION,
            "analyzers: [{name: saturation}]\nlimiters: [{type: quota}]\nenableRescale: true\n",
        ),
        (WVA_QUEUEING, "model_id: m\ntargetTtft: 500\n"),
    ):
        document = {"metadata": {"name": name}, "data": {"default": text}}
        reader.read_config_map(f"ConfigMap s/{name}", document)
    analyzers, limiters, rescale, target = reader.settings.wva.unused
    assert "enableRescale is not used: " in rescale
    assert "analyzers is not used: " in analyzers
    assert "limiters is not used: " in limiters
    assert "targetTtft is not known, and changes nothing; known are model_id, " in target


def test_what_stands_in_scale_to_zero_and_is_none_of_its_keys_is_named() -> None:
    """A key that the other ConfigMap has, and a value that is no mapping, are named and change nothing."""
    reader = inputs.Reader()
    entries = {
        "a": "scaleToZero: {enabled: true, retention_period: 5m}\n",
        "b": "scaleToZero: true\n",
    }
    data = {key: f"model_id: {key}\n{text}" for key, text in entries.items()}
    document = {"metadata": {"name": WVA_SATURATION}, "data": data}
    reader.read_config_map(f"ConfigMap s/{WVA_SATURATION}", document)
    (unknown,) = reader.settings.wva.unused
    assert (
        "data.a: scaleToZero.retention_period is not known, and changes nothing; known" in unknown
    )
    (problem,) = reader.inputs().problems
    assert "data.b: line 2: scaleToZero: must be " in problem


def test_scale_to_zero_as_it_was_spelt_in_2025() -> None:
    """Keys in camel case, and the default by its former name."""
    entries = {
        "__defaults__": "enableScaleToZero: false\n",
        "model.m": 'modelID: "m"\nenableScaleToZero: true\nretentionPeriod: "4m"\n',
    }
    spec = {"scaleTargetRef": REFERENCE, "variantCost": "1"}
    source = only(read({**spec, "modelID": "m"}, wva_model_scale_to_zero_config=entries))
    assert (source.scale_to_zero, source.retention_seconds) == (True, 240)
    other = only(read({**spec, "modelID": "o"}, wva_model_scale_to_zero_config=entries))
    assert other.scale_to_zero is False
