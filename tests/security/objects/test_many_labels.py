"""Objects with hundreds of labels or owners: a part is kept, and pods with many are found as quickly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import structlog

from adapter.kube import informer, labels
from adapter.kube.bodies.pages import Page
from adapter.resources import pods
from adapter.resources.serving import selection
from adapter.resources.watched import trimming
from tests.fakes.cluster_world import until
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


class Listed:
    """An API with one object, and events of it."""

    def __init__(self, *events: tuple[str, Mapping[str, Any]]) -> None:
        self.events = events

    async def list_pages(self, _: str, __: Sequence[tuple[str, str]] = ()) -> AsyncIterator[Page]:
        yield Page([dict(item(MANY, namespace="n"))], "1")

    async def watch_objects(
        self, _: str, __: str, ___: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        for kind, one in self.events:
            yield {"type": kind, "object": one}
        await asyncio.Event().wait()


async def test_that_a_part_is_kept_is_said_once() -> None:
    """Nothing said so, and a selector or a label of the accelerator may need one of the others.

    Pods that come and go, a thousand at a time, had a line each.
    """
    few = item(40, namespace="n")
    crowd = [item(MANY, namespace="n", name=f"v{number}") for number in range(50)]
    last = item(MANY, namespace="o")
    events = [(kind, one) for one in crowd for kind in ("ADDED", "DELETED", "ADDED")]
    watched = informer.Informer(Listed(("MODIFIED", few), *events, ("ADDED", last)), "/api/v1/pods")
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(watched.run())
        await until(lambda: ("o", "v") in watched.objects)
        running.cancel()
    said = [log for log in logs if log["event"].startswith("object has more labels")]
    assert [(log["object"], log["labels"], log["ownerReferences"]) for log in said] == [
        (("n", "v"), MANY, MANY),
        (("o", "v"), MANY, MANY),
    ]


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
