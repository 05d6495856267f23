"""Which variants of a fleet's groups are planned together."""

from __future__ import annotations

from adapter.planning.fleet import CurrentAllocation, Fleet, Load, Variant
from adapter.planning.groups import Group
from adapter.planning.joint import checks

LOAD = Load(arrival_rate_rps=1.0, input_tokens=1.0, output_tokens=1.0)


def variant(name: str, *, model: str = "m", service_class: str = "c") -> Variant:
    return Variant(
        name=name,
        model=model,
        service_class=service_class,
        profiles=(),
        load=LOAD,
        current=CurrentAllocation(accelerator="", replicas=0),
    )


def test_variants_unlike_their_group_stay_out_alone() -> None:
    """Another class or model is named with its variant; without any other variant the group is wrong too."""
    fleet = Fleet(
        accelerators=(),
        service_classes=(),
        variants=(variant("a"), variant("b", model="x"), variant("c", service_class="d")),
        groups=tuple(
            Group(name=name, model="m", service_class="c", variants=names, traffic=LOAD)
            for name, names in (("g", ("a", "b")), ("h", ("c",)))
        ),
    )
    checked = checks.checked(fleet)
    assert [(group.name, group.variants) for group in checked.groups] == [("g", ("a",))]
    assert checked.apart == {"b": "group g: model: b serves model 'x', the group 'm'"}
    assert checked.wrong == {"h": "class: c has class 'd', the group 'c'"}
