"""Which variants form a group, and that a tenant cannot join another one's without being let in."""

from __future__ import annotations

from typing import Any

import pytest

from adapter import errors
from adapter.planning import fleet
from adapter.resources.model_groups import forming, membership
from adapter.resources.model_groups.membership import (
    GROUP,
    GROUP_NAMESPACES,
    ROUTING,
    WEIGHT,
    Membership,
)
from adapter.resources.variant import VariantSource


def source(key: str, notes: dict[str, str] | None = None, **more: Any) -> VariantSource:
    """A variant of model `m` and class `c`, with annotations."""
    namespace, _, name = key.partition("/")
    return VariantSource(
        namespace=namespace, name=name, model=more.pop("model", "m"), profiles=(), accelerator="",
        service_class=more.pop("service_class", "c"), targets=fleet.Targets(), endpoints=(), replicas=1,
        membership=membership.parse(notes or {}, namespace), **more,
    )  # fmt: skip


def groups(*sources: VariantSource, unnamed: bool = True) -> dict[str, tuple[str, ...]]:
    formed = forming.form(sources, unnamed=unnamed)
    return {item.name: item.members for item in formed.groups}


def test_variants_of_one_namespace_model_and_class_are_a_group() -> None:
    """Where each is alone in one of the three, there is no group."""
    alone = (
        source("a/x"),
        source("b/x"),
        source("a/y", model="n"),
        source("a/z", service_class="d"),
    )
    assert groups(*alone) == {}
    assert groups(*alone, source("a/w")) == {"a/m@c": ("a/w", "a/x")}


def test_annotation_or_flag_keeps_out() -> None:
    """With `none` a variant is alone; without unnamed groups only those that name one are in one."""
    out = source("a/z", {GROUP: "none"})
    assert groups(source("a/x"), source("a/y"), out) == {"a/m@c": ("a/x", "a/y")}
    assert groups(source("a/x"), out) == {}
    named = [source(f"a/{name}", {GROUP: "g"}) for name in "pq"]
    every = (source("a/x"), source("a/y"), *named)
    assert groups(*every) == {"a/g": ("a/p", "a/q"), "a/m@c": ("a/x", "a/y")}
    assert groups(*every, unnamed=False) == {"a/g": ("a/p", "a/q")}


def test_across_namespaces_both_sides_agree() -> None:
    """A guest alone, or a host alone, is no agreement; nor is a guest that only some variants let in."""
    guest = source("b/x", {GROUP: "a/g"})
    closed = [source(f"a/{name}", {GROUP: "g"}) for name in "xy"]
    open_ = [source(f"a/{name}", {GROUP: "g", GROUP_NAMESPACES: "b"}) for name in "xy"]
    assert groups(guest, *closed) == {"a/g": ("a/x", "a/y")}
    assert groups(guest, closed[0], open_[1]) == {"a/g": ("a/x", "a/y")}
    assert groups(guest, *open_) == {"a/g": ("a/x", "a/y", "b/x")}
    assert groups(source("c/x", {GROUP: "a/g"}), *open_) == {"a/g": ("a/x", "a/y")}
    assert groups(source("b/x"), *open_) == {"a/g": ("a/x", "a/y")}


def test_a_guest_does_not_learn_whether_a_group_exists() -> None:
    """What it is told is the same for a group that does not let it in and for none; it names the fix."""
    guest = source("b/x", {GROUP: "a/g"})
    none = forming.form([guest]).problems["b/x"]
    assert none == forming.form([guest, source("a/x", {GROUP: "g"})]).problems["b/x"]
    assert f"{GROUP_NAMESPACES}: b" in none


def test_two_guests_form_no_group_without_a_host() -> None:
    """Otherwise two namespaces could share a group in the name of a third."""
    assert groups(source("b/x", {GROUP: "a/g"}), source("c/x", {GROUP: "a/g"})) == {}


def test_those_that_serve_something_else_are_named_and_alone() -> None:
    """Another model or class than most of a named group have; the others are a group."""
    formed = forming.form(
        [
            *(source(f"a/{name}", {GROUP: "g"}) for name in "xy"),
            source("a/other", {GROUP: "g"}, model="n"),
            source("a/lower", {GROUP: "g"}, service_class="d"),
        ]
    )
    assert [group.members for group in formed.groups] == [("a/x", "a/y")]
    assert "spec.modelID 'n' is not the group's 'm'" in formed.problems["a/other"]
    assert "service class 'd' is not the group's 'c'" in formed.problems["a/lower"]


def test_a_guest_cannot_outvote_the_host() -> None:
    """What the group serves is what its own namespace serves, however many guests there are."""
    host = source("a/x", {GROUP: "g", GROUP_NAMESPACES: "b"})
    guests = [source(f"b/{name}", {GROUP: "a/g"}, model="n") for name in "pqr"]
    formed = forming.form([host, *guests])
    assert formed.groups == ()
    assert formed.problems.keys() == {"b/p", "b/q", "b/r"}


def test_routings_that_differ_are_named() -> None:
    """The first one counts, and the other variant is told."""
    formed = forming.form(
        [
            source("a/x", {ROUTING: "least-loaded"}),
            source("a/y", {ROUTING: "weights"}),
            source("a/z"),
        ]
    )
    assert formed.groups[0].routing == "least-loaded"
    assert "'weights', but a/x of the same group says 'least-loaded'" in formed.problems["a/y"]
    assert forming.with_problems([source("a/y")], formed)[0].warnings == (formed.problems["a/y"],)


def test_a_guest_does_not_choose_the_routing_of_the_host() -> None:
    """Whatever its name: what the group's own variants say is used."""
    admit = {GROUP: "g", GROUP_NAMESPACES: "a"}
    host = [source("b/x", admit), source("b/y", {**admit, ROUTING: "least-loaded"})]
    formed = forming.form([source("a/guest", {GROUP: "b/g", ROUTING: "weights"}), *host])
    assert formed.groups[0].routing == "least-loaded"
    assert list(formed.problems) == ["a/guest"]
    silent = [source("b/x", admit), source("b/y", admit)]
    formed = forming.form([source("a/guest", {GROUP: "b/g", ROUTING: "weights"}), *silent])
    assert formed.groups[0].routing is None
    assert list(formed.problems) == ["a/guest"]


def test_variants_beyond_the_most_of_a_group_are_named_and_alone() -> None:
    """The plan is everybody's: no tenant makes it late with a group that cannot be placed in time."""
    admit = {GROUP: "g", GROUP_NAMESPACES: "a"}
    host = [source(f"b/{number:04}", admit) for number in range(forming.MOST - 1)]
    guests = [source(f"a/{number}", {GROUP: "b/g"}) for number in range(3)]
    formed = forming.form([*guests, *host])
    assert formed.groups[0].members == ("a/0", *(item.key for item in host))
    assert sorted(formed.problems) == ["a/1", "a/2"]


@pytest.mark.parametrize(("number", "groups"), [(forming.MOST, 1), (forming.MOST + 1, 0)])
def test_too_many_alike_form_no_group_that_nobody_named(number: int, groups: int) -> None:
    """They are sized alone, all of them, and nobody is told of a group that nobody asked for."""
    formed = forming.form(source(f"b/{index:04}") for index in range(number))
    assert (len(formed.groups), formed.problems) == (groups, {})


def test_held_variants_are_in_no_group() -> None:
    """A variant that cannot be planned holds its target; its one sibling is alone."""
    assert groups(source("a/x"), source("a/y", held="no such class")) == {}


@pytest.mark.parametrize(
    ("notes", "named"),
    [
        ({GROUP: "a/b/c"}, GROUP),
        ({GROUP: "/c"}, GROUP),
        ({GROUP: "a/"}, GROUP),
        ({GROUP: ""}, GROUP),
        ({GROUP: "No_Name"}, GROUP),
        ({GROUP_NAMESPACES: "*"}, GROUP_NAMESPACES),
        ({ROUTING: "random"}, ROUTING),
        ({WEIGHT: "-1"}, WEIGHT),
        ({WEIGHT: "0.5"}, WEIGHT),
    ],
)
def test_annotations_that_cannot_be_read_are_named(notes: dict[str, str], named: str) -> None:
    """One error with the annotation, and what is accepted."""
    with pytest.raises(errors.InputError, match=named):
        membership.parse(notes, "a")


def test_annotations_are_read() -> None:
    """The own namespace is the default; a list has blanks."""
    notes = {GROUP: "g", GROUP_NAMESPACES: "b, c", ROUTING: "weights", WEIGHT: "30"}
    assert membership.parse(notes, "a") == Membership(
        namespace="a", name="g", admits=frozenset({"b", "c"}), routing="weights", weight=30.0
    )
    assert membership.parse({GROUP: "b/g"}, "a") == Membership(namespace="b", name="g")
