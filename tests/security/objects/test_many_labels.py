"""Objects with hundreds of labels or owners: a part is kept, and pods with many are found as quickly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter.kube import informer, labels
from adapter.resources import pods
from adapter.resources.serving import selection
from adapter.resources.watched import trimming
from tests.security.objects.test_long_pods import Name

MANY = 500


def item(count: int, **more: Any) -> Mapping[str, Any]:
    """An object with so many labels and owners."""
    metadata = {
        "name": "v",
        "labels": {Name(f"k{number}"): "x" for number in range(count)},
        "ownerReferences": [{"kind": "K", "name": f"o{number}"} for number in range(count)],
        "finalizers": [f"f/{number}" for number in range(count)],
        **more,
    }
    return {"metadata": metadata}


def test_a_part_of_the_labels_and_owners_is_kept() -> None:
    """5,000 pods with 500 labels each took 373 MiB. Nodes, which are the operator's, keep all labels."""
    kept = informer.kept(item(MANY, namespace="n"), lambda whole: whole)["metadata"]
    assert len(kept["labels"]) == informer.MOST_LABELS
    assert kept["ownerReferences"][0]["name"] == "o0"
    assert len(kept["ownerReferences"]) == informer.MOST_OWNERS
    assert "finalizers" not in kept
    few = informer.kept(item(40, namespace="n"), lambda whole: whole)["metadata"]
    assert len(few["labels"]) == len(few["ownerReferences"]) == 40
    assert len(informer.kept(item(MANY), lambda whole: whole)["metadata"]["labels"]) == MANY
    deployment = {"metadata": {"name": "v"}, "spec": {"template": item(MANY)}}
    template = trimming.deployment(deployment)["spec"]["template"]
    assert len(template["metadata"]["labels"]) == informer.MOST_LABELS


def test_the_controller_is_among_the_owners_that_are_kept() -> None:
    """Else a pod with many owners would count for every workload whose selector matches it."""
    controller = {"kind": "StatefulSet", "name": "w", "controller": True}
    others = item(MANY)["metadata"]["ownerReferences"]
    whole = item(0, namespace="n", ownerReferences=[*others, controller])
    kept = informer.kept(whole, pods.trimmed)
    assert kept["owner"] == ("StatefulSet", "w")


def test_pods_with_many_labels_are_found_and_not_indexed() -> None:
    """An index of all labels of 5,000 such pods took 460 MiB and 5 s, several times for each reading."""
    count = selection.MOST_INDEXED + 1
    many = [
        {**item(count, namespace="n", name=f"p{number}"), "owner": None, "ready": False}
        for number in range(50)
    ]
    few = {**item(3, namespace="n", name="few"), "owner": None, "ready": False}
    Name.looks = 0
    index = pods.ByLabel([*many, few])
    assert Name.looks < 2 * count
    assert index.matching("n", labels.parse("k2=x")) == [few, *many]
    assert index.matching("n", labels.parse(f"k2=x,k{count - 1}=x")) == many
    assert index.matching("n", labels.parse("k0=y")) == []
    assert index.matching("other", labels.parse("k2=x")) == []
