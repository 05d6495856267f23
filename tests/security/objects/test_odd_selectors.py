"""Selectors with thousands of terms, and thousands of selectors: no owner of them stops everybody's cycle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import monitors

TRUSTED = "adapter"


def pod(number: int, tags: Mapping[str, str]) -> dict[str, Any]:
    return {"metadata": {"namespace": "n", "name": f"p{number}", "labels": tags}}


def monitor(namespace: str, tags: Mapping[str, str], *, everywhere: bool = False) -> Any:
    document = {
        "metadata": {"namespace": namespace, "name": "m"},
        "spec": {
            "selector": {"matchLabels": tags},
            "namespaceSelector": {"any": everywhere},
            "endpoints": [{"port": "http"}],
        },
    }
    return monitors.trimmed_of_services(document)["monitor"]


def service(tags: Mapping[str, str]) -> Any:
    spec = {"selector": {"app": "v"}, "ports": [{"name": "http", "targetPort": 8000}]}
    document = {"metadata": {"name": "s", "labels": tags}, "spec": spec}
    return monitors.trimmed_service(document)["service"]


def comparisons(count: int) -> float:
    """CPU seconds to find the pods of a selector with so many terms."""
    tags = {f"k{number}": "v" for number in range(count)}
    selector = labels.parse(",".join(f"{key}={value}" for key, value in tags.items()))
    index = pods.ByLabel([pod(1, tags)])
    taken = []
    for _ in range(3):
        started = time.process_time()
        assert len(index.matching("n", selector)) == 1
        taken.append(time.process_time() - started)
    return min(taken)


def test_terms_are_not_compared_with_each_other() -> None:
    """Eight times the terms take about eight times as long; it was 64 times."""
    assert comparisons(8000) < 4 * 8 * max(comparisons(1000), 0.001)


def test_an_object_with_too_many_terms_selects_nothing() -> None:
    """Each term would be compared with every pod."""
    few = {f"k{number}": "v" for number in range(labels.MOST_TERMS)}
    assert len(labels.selector_of({"matchLabels": few}).requirements) == labels.MOST_TERMS
    many = [{"key": f"k{number}", "operator": "DoesNotExist"} for number in range(65)]
    assert not labels.selector_of({"matchExpressions": many}).requirements
    assert not labels.parse_lenient(",".join(f"!k{number}" for number in range(65))).requirements


class Counted(dict[str, str]):
    """Labels that count how often they are looked at."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        Counted.looks += 1
        return super().get(key, default)


def test_monitors_and_services_of_one_namespace_are_not_all_compared() -> None:
    """Of 3,000 ServiceMonitors and 3,000 Services, which all fit, some are used; and those of others too."""
    Counted.looks = 0
    tags = Counted(app="v")
    services = [("tenant", service(tags))] * 3000 + [("other", service({"app": "v"}))]
    scraped = [monitor("tenant", {"app": "v"}, everywhere=True)] * 3000
    scraped += [monitor("other", {"app": "v"})]
    monitored = list(monitors.of_services(scraped, services, trusted=TRUSTED))
    assert Counted.looks < 10**5
    assert [item.home for item in monitored].count("other") == 1
    assert {item.namespaces for item in monitored if item.home == "tenant"} == {("tenant",)}


def test_the_operators_monitors_are_for_all_namespaces() -> None:
    """However many there are."""
    services = [(f"n{number}", service({"app": "v"})) for number in range(2000)]
    scraped = [monitor(TRUSTED, {"app": "v"}, everywhere=True)]
    assert len(list(monitors.of_services(scraped, services, trusted=TRUSTED))) == 2000
