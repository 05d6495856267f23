"""HPAs as they bear on us, and what they hold back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapter.controller import state as states
from adapter.diagnostics import explain
from adapter.kube import labels, scale
from adapter.planning import fleet
from adapter.resources import hpa, variant
from adapter.settings.serving import Actuator
from tests.fakes import cluster_world as worlds


def served(name: str) -> dict[str, str]:
    return hpa.served_labels(namespace="team-a", name=name, model="m", accelerator="A100")


def selecting(selector: dict[str, Any] | None) -> hpa.Reading:
    """Our metric, selected like that."""
    item = worlds.scaler("v")
    item["spec"]["metrics"][0]["external"]["metric"]["selector"] = selector
    (reading,) = hpa.parse(item).readings
    return reading


def parsed(**more: Any) -> hpa.Scaler:
    return hpa.parse(worlds.scaler("v", **more))


def test_an_hpa_is_read() -> None:
    """Target, bounds, our reading, and the controller's defaults where it says nothing."""
    scaler = parsed(low=2, high=7)
    assert scaler.reference == scale.Reference(name="v")
    assert (scaler.minimum, scaler.maximum) == (2, 7)
    assert scaler.readings == (
        hpa.Reading(
            metric="inferno_desired_replicas",
            selector=labels.parse("variant_name=v"),
            target_type="AverageValue",
            target=1.0,
        ),
    )
    assert (scaler.up_tolerance, scaler.down_tolerance) == (0.1, 0.1)
    assert (scaler.up_seconds, scaler.down_seconds) == (0, 300)
    assert scaler.reads(served("v"))
    assert not scaler.reads(served("w"))


def test_tolerances_and_windows_are_quantities() -> None:
    """As the API has them: `50m`, `0`, seconds."""
    behavior = {"scaleUp": {"tolerance": "50m"}, "scaleDown": {"stabilizationWindowSeconds": 0}}
    scaler = parsed(behavior=behavior)
    assert (scaler.up_tolerance, scaler.down_seconds) == (0.05, 0)


@pytest.mark.parametrize(
    ("current", "desired", "ignored"),
    [(10, 11, True), (10, 12, False), (10, 9, True), (10, 8, False), (9, 10, False), (0, 3, False)],
)
def test_what_an_hpa_ignores(current: int, desired: int, ignored: bool) -> None:  # noqa: FBT001
    """Ten percent, both ends included, as recorded from the controller."""
    assert (parsed().ignores(current, desired) is not None) == ignored


@pytest.mark.parametrize(
    ("selector", "text", "why"),
    [
        ({"matchLabels": {"variant_name": "v"}}, "variant_name=v", ""),
        (
            {"matchExpressions": [{"key": "variant_name", "operator": "In", "values": ["v"]}]},
            "variant_name=v",
            "",
        ),
        (
            {"matchExpressions": [{"key": "variant_name", "operator": "In", "values": ["w", "v"]}]},
            "variant_name in (v,w)",
            "",
        ),
        (
            {
                "matchLabels": {"exported_namespace": "team-a", "model_name": "m"},
                "matchExpressions": [
                    {"key": "variant_name", "operator": "NotIn", "values": ["w"]},
                    {"key": "accelerator_type", "operator": "Exists"},
                    {"key": "target_name", "operator": "DoesNotExist"},
                ],
            },
            "exported_namespace=team-a,model_name=m,variant_name!=w,accelerator_type,!target_name",
            "",
        ),
        ({"matchLabels": {"variant_name": "w"}}, "variant_name=w", "variant_name is 'v'"),
        (
            {"matchLabels": {"variant_name": "v", "target_name": "v"}},
            "variant_name=v,target_name=v",
            "label target_name is not served; there are accelerator_type, exported_namespace",
        ),
        ({}, "", ""),
        (None, "", ""),
    ],
)
def test_selectors_as_the_hpa_states_them(
    selector: dict[str, Any] | None, text: str, why: str
) -> None:
    """What the API serves for it is what doctor and explain say; a label that is not served is named."""
    reading = selecting(selector)
    said = reading.why_not(served("v"))
    assert why in said
    assert bool(said) == bool(why)
    asked = labels.parse(reading.selector_text)
    assert asked.matches(served("v")) == (not why)
    assert reading.selector_text.replace("variant_name notin (w)", "variant_name!=w") == text


def test_several_hpas_on_one_target() -> None:
    """The one that reads us bounds the plan, whatever its name; both are named, with KEDA's object."""
    ours = replace(parsed(high=10), name="z")
    item = worlds.scaler("v", high=2)
    item["metadata"] |= {
        "name": "keda-hpa-v",
        "ownerReferences": [{"kind": "ScaledObject", "name": "s"}],
    }
    item["spec"]["metrics"] = []
    other = hpa.parse(item)
    target = scale.Reference(name="v")
    bounding, why = hpa.of_target([other, ours], target, served("v"))
    assert bounding == ours
    assert why.startswith(
        "HorizontalPodAutoscaler z and HorizontalPodAutoscaler keda-hpa-v (of ScaledObject s) all scale"
    )
    assert why.endswith("and delete the other")
    third = replace(other, name="w")
    assert hpa.of_target([other, ours, third], target, served("v"))[1].endswith("delete the others")
    assert hpa.of_target([other], target, served("v")) == (other, "")
    assert hpa.of_target([ours], scale.Reference(name="w"), served("v")) == (None, "")


def test_others_metrics_are_not_ours() -> None:
    """An HPA on CPU and on another external metric reads nothing of ours."""
    item = worlds.scaler("v")
    item["spec"]["metrics"] = [
        {"type": "Resource", "resource": {"name": "cpu"}},
        {"type": "External", "external": {"metric": {"name": "queue"}, "target": {}}},
    ]
    assert hpa.parse(item).readings == ()


def state(
    scaler: hpa.Scaler | None,
    *,
    current: int,
    desired: int,
    wanted: int | None = None,
    actuate: Actuator | None = None,
) -> states.VariantState:
    """A variant with a target."""
    source = variant.VariantSource(
        namespace="n", name="v", model="m", service_class="c", profiles=(),
        targets=fleet.Targets(), accelerator="A100", endpoints=(), replicas=current,
        spec_replicas=current if wanted is None else wanted, scaler=scaler, actuate=actuate,
        reference=scale.Reference(name="v"),
    )  # fmt: skip
    return states.VariantState(source=source, desired=desired)


def test_what_holds_a_change_back_is_said() -> None:
    """Tolerance, window, a missing or a deaf HPA, a scale that is under way; nothing where all is well."""
    quick = replace(parsed(), up_tolerance=0.0)
    assert explain.held_back(state(parsed(), current=2, desired=2)) == []
    assert explain.held_back(state(quick, current=10, desired=11)) == []
    (reason,) = explain.held_back(state(parsed(), current=10, desired=11))
    assert "ignores changes of at most 10%; set spec.behavior.scaleUp.tolerance: 0" in reason
    (reason,) = explain.held_back(state(quick, current=10, desired=5))
    assert "waits up to 300 s" in reason
    (reason,) = explain.held_back(state(None, current=1, desired=3))
    assert "no HorizontalPodAutoscaler scales Deployment v" in reason
    (reason,) = explain.held_back(state(quick, current=1, desired=3, wanted=3))
    assert "1 replicas exist so far" in reason
    (reason,) = explain.held_back(state(quick, current=0, desired=1, wanted=0))
    assert "at zero" in reason
    waiting = state(quick, current=3, desired=3, wanted=3)
    waiting = replace(waiting, desired=4, source=replace(waiting.source, spec_replicas=4, gated=1))
    assert "1 pods of Deployment v wait for their scheduling gate" in explain.held_back(waiting)[0]
    deaf = replace(quick, readings=())
    (reason,) = explain.held_back(state(deaf, current=1, desired=3))
    assert "does not read the adapter's metric" in reason
    assert explain.held_back(state(None, current=1, desired=3, actuate="scale")) == []
    item = worlds.scaler("v", behavior={"scaleDown": {"selectPolicy": "Disabled"}})
    (reason, _) = explain.held_back(state(hpa.parse(item), current=5, desired=1))
    assert "never does so: behavior.scaleDown.selectPolicy is Disabled" in reason


def test_policies_that_slow_a_change_are_said() -> None:
    """The fastest of several holds, or the slowest with selectPolicy Min; percents are rounded up."""
    policies = [
        {"type": "Pods", "value": 1, "periodSeconds": 900},
        {"type": "Percent", "value": 10, "periodSeconds": 60},
    ]
    rules = {"tolerance": "0", "stabilizationWindowSeconds": 0, "policies": policies}

    def said(current: int, desired: int, select: str) -> str:
        behavior = {"scaleUp": rules | {"selectPolicy": select}, "scaleDown": rules}
        scaler = hpa.parse(worlds.scaler("v", high=100, behavior=behavior))
        return "; ".join(explain.held_back(state(scaler, current=current, desired=desired)))

    assert said(25, 28, "Max") == ""
    assert "adds at most 3 in 60 s (behavior.scaleUp.policies)" in said(25, 29, "Max")
    assert "adds at most 1 in 900 s (behavior.scaleUp.policies)" in said(25, 28, "Min")
    assert "removes at most 3 in 60 s (behavior.scaleDown.policies)" in said(25, 20, "Min")
    assert parsed().slowed(1, 10) is None


def test_our_metric_of_another_type_is_named_with_it() -> None:
    """As one of pods it has the right name and is never read."""
    item = worlds.scaler("v")
    item["spec"]["metrics"] = [
        {"type": "Pods", "pods": {"metric": {"name": "inferno_desired_replicas"}}}
    ]
    scaler = hpa.parse(item)
    assert scaler.readings == ()
    assert scaler.others == ("inferno_desired_replicas (type Pods, not External)",)


def test_workloads_that_differ_in_their_group_alone_are_told_apart() -> None:
    """An HPA without apiVersion means a group that has no Deployments; both have the same name."""
    ours, other = scale.Reference(name="v"), scale.Reference(name="v", api_version="")
    assert ours.difference(other) == " of apiVersion 'apps/v1', not ''"
    assert ours.difference(scale.Reference(name="w")) == ""


def test_a_selector_that_kubernetes_refuses_reads_nothing() -> None:
    """The name of a model may have a slash, and the value of a label may not: the HPA asks nobody."""
    reading = selecting({"matchLabels": {"variant_name": "v", "model_name": "org/m"}})
    assert reading.unread
    assert reading.why_not(served("v")) == hpa.NO_SELECTOR
    assert not selecting(None).unread
    assert selecting(None).why_not(served("v")) == ""


def test_a_selector_that_is_too_long_is_said_to_be_so() -> None:
    """Kubernetes follows it, and nobody finds a wrong character in it."""
    names = [f"v{number}" for number in range(1000)]
    expression = {"key": "variant_name", "operator": "In", "values": names}
    reading = selecting({"matchExpressions": [expression]})
    why = reading.why_not(served("v1"))
    assert why == "its selector has 1000 terms and values, and at most 512 are compared"


CPU = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
BESIDE = [
    {"type": "Resource", "resource": CPU},
    {"type": "ContainerResource", "containerResource": {**CPU, "container": "vllm"}},
    {"type": "Pods", "pods": {"metric": {"name": "queue"}, "target": {}}},
    {"type": "External", "external": {"metric": {"name": "s0-cron"}, "target": {}}},
]


def test_what_an_hpa_reads_beside_may_hold_it_up() -> None:
    """The largest of all metrics counts, so fewer replicas may not come; more do."""
    item = worlds.scaler("v")
    item["spec"]["metrics"] += BESIDE
    scaler = hpa.parse(item)
    assert scaler.others == ("cpu", "cpu of container vllm", "queue", "s0-cron")
    assert parsed().others == ()
    assert any(
        "follows the largest" in text
        for text in explain.held_back(state(scaler, current=4, desired=2))
    )
    assert not any(
        "follows the largest" in text
        for text in explain.held_back(state(scaler, current=2, desired=4))
    )


def test_a_trigger_of_prometheus_is_not_said_to_read_nothing() -> None:
    """KEDA's HPA does not have its query, which may be for the adapter's metric, as WVA's guide has it."""
    item = worlds.scaler("keda-hpa-v")
    item["metadata"]["labels"] = {"scaledobject.keda.sh/name": "v"}
    item["spec"]["metrics"][0]["external"]["metric"] = {"name": "s0-prometheus"}
    scaler = hpa.parse(item)
    assert scaler.by_prometheus
    assert not scaler.by_keda
    assert not any(
        "does not read" in text for text in explain.held_back(state(scaler, current=2, desired=4))
    )
    assert not any(
        "also reads" in text for text in explain.held_back(state(scaler, current=4, desired=2))
    )
