"""Annotations of variants: the same values as those of the flags that they override."""

from __future__ import annotations

import pytest

from adapter import errors
from adapter.installation import CLASSES
from adapter.planning.fleet import ROUTINGS
from adapter.resources import inputs
from adapter.resources.annotations import (
    ACTUATE,
    ACTUATORS,
    KEEP_ACCELERATOR,
    METRICS_SOURCE,
    RETENTION,
    ROUTING,
    SCALE_TO_ZERO,
    STARTUP,
    TUNE,
    parse_flag,
    parse_number,
    parse_one_of,
)
from adapter.resources.configuration import unknown
from adapter.resources.model_groups.membership import INTERRUPTIBLE
from adapter.settings.control import SOURCES
from adapter.settings.groups import all_declarations

BOUNDS = {
    STARTUP: "a duration from 1s to 24h",
    RETENTION: "a duration from 1s to 168h",
}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("text", ["0", "500ms", "1000h", "600000000", "soon", ""])
def test_durations_have_the_bounds_of_the_flag(name: str, text: str) -> None:
    """A value in the wrong unit is refused; the error names the annotation, the flag and what is accepted."""
    with pytest.raises(errors.InputError) as caught:
        parse_number({name: text}, name)
    assert str(caught.value).startswith(f"metadata.annotations[{name}]: must be {BOUNDS[name]}")
    (declared,) = [item for item in all_declarations() if item.annotation == name]
    assert str(caught.value).endswith(f"; the setting is {declared.flag} / {name}")


@pytest.mark.parametrize("name", BOUNDS)
def test_durations_within_the_bounds(name: str) -> None:
    """In all ways to write one; without the annotation there is none."""
    assert parse_number({name: "1m30s"}, name) == 90
    assert parse_number({name: "1"}, name) == 1
    assert parse_number({}, name) is None


WORDS = {ACTUATE: ACTUATORS, METRICS_SOURCE: SOURCES, ROUTING: ROUTINGS}


@pytest.mark.parametrize("name", [*WORDS, KEEP_ACCELERATOR, SCALE_TO_ZERO, TUNE])
def test_words_name_all_spellings_of_the_setting(name: str) -> None:
    """As numbers do: the annotation, what is accepted, the flag and the key."""
    with pytest.raises(errors.InputError) as caught:
        parse_one_of({name: "foo"}, name, WORDS[name]) if name in WORDS else parse_flag(
            {name: "foo"}, name
        )
    accepted = f"one of {', '.join(WORDS[name])}" if name in WORDS else '"true" or "false"'
    (declared,) = [item for item in all_declarations() if item.annotation == name]
    assert str(caught.value) == (
        f"metadata.annotations[{name}]: must be {accepted}, not 'foo'"
        f"; the setting is {declared.spellings}"
    )
    assert declared.flag in declared.spellings


def test_an_annotation_without_a_flag_names_itself() -> None:
    """There is no other spelling."""
    with pytest.raises(errors.InputError, match=r"must be \"true\" or \"false\", not 'foo'$"):
        parse_flag({INTERRUPTIBLE: "foo"}, INTERRUPTIBLE)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llmd.ai/min-replica", "did you mean llmd.ai/min-replicas?"),
        ("llmd.ai/Max-Replicas", "did you mean llmd.ai/max-replicas?"),
        ("llmd.ai/groups", "did you mean llmd.ai/group?"),
        ("llmd.ai/colour", "known are llmd.ai/actuate, llmd.ai/allow-scale, llmd.ai/group,"),
    ],
)
def test_an_unknown_annotation_is_named_with_the_nearest(name: str, hint: str) -> None:
    """A typing error is not silence."""
    (line,) = unknown.notes({name: "2", "example.com/min-replica": "2"})
    assert line.startswith(
        f"metadata.annotations[{name}]: is not known and changes nothing; {hint}"
    )


def test_known_annotations_are_not_reported() -> None:
    """Those of settings, groups, bounds and consent; nor those of other projects."""
    declared = [item.annotation for item in all_declarations() if item.annotation]
    others = ["wva.llmd.ai/exclude", "llm-d.ai/managed", "kubernetes.io/x"]
    words = [
        "min-replicas", "max-replicas", "replicas", "metrics-endpoints", "allow-scale",
        "group", "group-namespaces", "group-routing", "group-weight", "interruptible",
    ]  # fmt: skip
    names = [*declared, *others, *(f"llmd.ai/{word}" for word in words)]
    assert unknown.notes(dict.fromkeys(names, "")) == []


def test_a_variant_with_an_unknown_annotation_stays_valid() -> None:
    """It is served, and the mistake is among the problems of its configuration."""
    reader = inputs.Reader()
    row = "name: Premium\npriority: 1\ndata:\n  - {model: m, slo-tpot: 24, slo-ttft: 500}\n"
    classes = {"metadata": {"name": CLASSES, "namespace": "s"}, "data": {"premium": row}}
    reader.read_config_map("ConfigMap s/c", classes)
    notes = {"llmd.ai/min-replica": "2", "llmd.ai/replicas": "1"}
    reader.read_object(
        "",
        {
            "apiVersion": "llmd.ai/v1alpha1",
            "kind": "VariantAutoscaling",
            "metadata": {"name": "v", "namespace": "n", "annotations": notes},
            "spec": {"modelID": "m", "variantCost": "1"},
        },
    )
    read = reader.inputs()
    (source,) = read.variants
    (warning,) = source.warnings
    assert "metadata.annotations[llmd.ai/min-replica]: is not known" in warning
    assert [problem for problem in read.problems if warning in problem]
    assert not read.refused


def test_all_annotations_that_cannot_be_used_are_named_at_once() -> None:
    """Those of the variant and of its target: who mends one need not come back for the next."""
    reader = inputs.Reader()
    reader.read_config_map(
        CLASSES,
        {
            "metadata": {"name": CLASSES},
            "data": {"c": "name: C\npriority: 1\ndata: [{model: m, slo-tpot: 24}]\n"},
        },
    )
    given = {"namespace": "n", "name": "v"}
    reader.read_object(
        "",
        {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {**given, "annotations": {"llmd.ai/replicas": "x"}},
        },
    )  # fmt: skip
    wrong = {
        "llmd.ai/min-replicas": "two", TUNE: "yes", STARTUP: "2 min", ROUTING: "best",
        ACTUATE: "maybe", INTERRUPTIBLE: "1", "llmd.ai/group": "a/b/c", SCALE_TO_ZERO: "true",
    }  # fmt: skip
    reader.read_object(
        "",
        {
            "apiVersion": "llmd.ai/v1alpha1", "kind": "VariantAutoscaling",
            "metadata": {**given, "annotations": wrong},
            "spec": {"modelID": "m", "scaleTargetRef": {"name": "v"}, "variantCost": "1"},
        },
    )  # fmt: skip
    (refused,) = reader.inputs().refused
    for name in wrong.keys() - {SCALE_TO_ZERO}:
        assert refused.message.count(f"metadata.annotations[{name}]: ") == 1, name
    assert "metadata.annotations[llmd.ai/replicas] of Deployment v: must be" in refused.message
    assert SCALE_TO_ZERO not in refused.message


def test_an_annotation_of_the_scale_target_alone_is_named_with_it() -> None:
    """Who looks for a mistyped one on the VariantAutoscaling would not find it."""
    reader = inputs.Reader()
    row = "name: Premium\npriority: 1\ndata:\n  - {model: m, slo-tpot: 24, slo-ttft: 500}\n"
    classes = {"kind": "ConfigMap", "metadata": {"name": CLASSES}, "data": {"premium": row}}
    reader.read_object("", {"apiVersion": "v1", **classes})
    on_deployment = {
        "llmd.ai/max-replica": "4", "llmd.ai/min-replica": "1", "llmd.ai/replicas": "1",
    }  # fmt: skip
    given = {"namespace": "n", "name": "v"}
    reader.read_object(
        "",
        {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {**given, "annotations": on_deployment},
        },
    )  # fmt: skip
    reader.read_object(
        "",
        {
            "apiVersion": "llmd.ai/v1alpha1", "kind": "VariantAutoscaling",
            "metadata": {**given, "annotations": {"llmd.ai/min-replica": "2"}},
            "spec": {"modelID": "m", "scaleTargetRef": {"name": "v"}, "variantCost": "1"},
        },
    )  # fmt: skip
    (source,) = reader.inputs().variants
    named = [
        text.partition(": is not known")[0] for text in source.warnings if "is not known" in text
    ]
    assert sorted(named) == [
        "metadata.annotations[llmd.ai/max-replica] of Deployment v",
        "metadata.annotations[llmd.ai/min-replica]",
    ]
