"""Groups of a fleet of which a part is planned: the worker sets variants aside that it fails for."""

from __future__ import annotations

from adapter.planning.fleet import Load
from adapter.planning.groups import Group, present


def test_groups_keep_the_variants_that_are_there() -> None:
    """A variant that was set aside takes neither its group nor the demand with it."""
    load = Load(arrival_rate_rps=1.0, input_tokens=1.0, output_tokens=1.0)
    groups = [
        Group(name=name, model="m", service_class="c", variants=variants, traffic=load)
        for name, variants in (("g", ("a", "b", "c")), ("h", ("d",)))
    ]
    narrowed = present(groups, {"a", "c", "x"})
    assert [(group.name, group.variants, group.traffic) for group in narrowed] == [
        ("g", ("a", "c"), load)
    ]
    assert present(groups, set("abcd")) == tuple(groups)
