"""What a new snapshot costs, and what it never contains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.kube import labels
from adapter.store import DESIRED, Entry, Series, TargetStore


def series(name: str, value: str = "1", accelerator: str = "A100") -> Series:
    return Series(
        metric=DESIRED,
        namespace="team-a",
        labels={"variant_name": name, "accelerator_type": accelerator},
        value=value,
        decided_at=100.0,
    )


def entries(store: TargetStore, name: str) -> list[Entry]:
    return store.answer("team-a", DESIRED, labels.parse(f"variant_name={name}"), now=0.0)


def test_what_has_not_changed_is_not_encoded_again() -> None:
    """A follower publishes at every status that it sees: of 300 variants only that one costs anything."""
    store = TargetStore()
    groups = {name: (series(name),) for name in ("a", "b")}
    store.publish_groups(groups)
    (kept,) = entries(store, "a")
    store.publish_groups({**groups, "b": (series("b", "2"),)})
    assert entries(store, "a")[0] is kept
    assert b'"value":"2"' in entries(store, "b")[0].encoded


def test_groups_are_replaced_alone() -> None:
    """The others stay, a refused one changes nothing, and who waits is told of real changes only."""
    store = TargetStore()
    store.publish_groups({name: (series(name),) for name in ("a", "b")})
    (same,) = entries(store, "a")
    told = store.changes._event
    store.replace_groups({"a": (series("a"),)})
    assert not told.is_set()
    store.replace_groups({"b": (series("b", "2"),), "c": (series("c"),)})
    assert told.is_set()
    assert entries(store, "a")[0] is same
    assert [b'"value":"2"' in entry.encoded for entry in entries(store, "b")] == [True]
    with pytest.raises(ValueError, match="twice"):
        store.replace_groups({"c": (series("c", "2"), series("b", "3"))})
    assert b'"value":"1"' in entries(store, "c")[0].encoded
    store.replace_groups({"b": ()})
    assert not entries(store, "b")
    store.publish_groups({})
    assert store.list_external_metrics() == ()


def test_a_variant_whose_labels_change_has_one_item() -> None:
    """The HPA sums items: that of the former accelerator is gone with the new one."""
    store = TargetStore()
    store.publish_groups({"a": (series("a"),)})
    store.publish_groups({"a": (series("a", accelerator="H100"),)})
    (entry,) = entries(store, "a")
    assert entry.labels["accelerator_type"] == "H100"
    store.publish_groups({})
    assert not entries(store, "a")
    assert store.list_external_metrics() == ()


@pytest.mark.parametrize("wrong", [series("a"), series("c", "-1")])
def test_a_refused_snapshot_leaves_the_last_one(wrong: Series) -> None:
    """The same item in two groups, or a negative value: nothing of that snapshot is served."""
    store = TargetStore()
    store.publish_groups({"a": (series("a"),), "b": (series("b"),)})
    with pytest.raises(ValueError, match=r"twice|negative"):
        store.publish_groups({"a": (series("a"),), "b": (series("b", "2"), wrong)})
    assert [b'"value":"1"' in entry.encoded for entry in entries(store, "b")] == [True]
    store.publish_groups({"a": (series("a"),), "b": (series("b", "3"),)})
    assert b'"value":"3"' in entries(store, "b")[0].encoded


def test_an_item_may_move_to_another_group() -> None:
    """Whichever of the two is first, it is served once."""
    store = TargetStore()
    item = replace(series("a"), value="4")
    for groups in ({"a": (item,), "b": ()}, {"a": (), "b": (item,)}, {"b": (), "a": (item,)}):
        store.publish_groups(groups)
        assert len(entries(store, "a")) == 1
