"""Attribution of series in Prometheus to variants: by the pods of scale targets, not by the model.

The pods distinguish two variants of one model in one namespace. Series without pod labels, like those of
servers that a static configuration scrapes, are attributed by address, and by model where only one variant
serves it; the result says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from adapter.collector.promql import Sampled
from adapter.collector.windows.siblings import Siblings
from adapter.resources.variant import VariantSource

How = Literal["pod", "pod without namespace", "address", "model"]

SAME_PROCESS_SECONDS = 0.05
"""Tolerance between two reports of one process's start: the kernel counts in hundredths of a second."""

_MERGED_PORT = ":15020"
"""Port at which Istio shows a server's metrics once more, with the start of its own process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """One pod's series with the variant that they belong to.

    Attributes:
        key: Key of the variant.
        endpoint: Endpoint of the pod; where that is not known, a name made of its labels.
        sampled: The series.
        how: What they were attributed by.
        further: True for one more server of a pod that has another one at its endpoint.

    """

    key: str
    endpoint: str
    sampled: Sampled
    how: How
    further: bool = False


class Attribution:
    """Attributes the pods of an answer to variants.

    Attributes:
        problems: Why some series of a variant could not be used, by key.
        undecided: Whether further answers may show that addresses of a pod are of several servers.

    """

    def __init__(self, variants: Iterable[VariantSource], siblings: Siblings | None = None) -> None:
        """`siblings`: what earlier answers said of several addresses of one pod; None: there were none."""
        self._siblings = Siblings() if siblings is None else siblings
        self._by_pod: dict[tuple[str, str], tuple[str, str]] = {}
        self._by_name: dict[str, tuple[str, str] | None] = {}
        self._by_address: dict[str, tuple[str, str] | None] = {}
        self._pod_at: dict[str, tuple[str, str]] = {}
        self._beside: dict[str, list[str]] = {}
        self._by_model: dict[str, list[VariantSource]] = {}
        self._models: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.undecided = False
        endpoints: list[str] = []
        for source in variants:
            endpoints += source.endpoints
            self._models[source.key] = source.model
            of_pods: dict[str, list[str]] = {}
            for name, endpoint in zip(source.pods, source.endpoints, strict=False):
                self._beside[endpoint] = of_pods.setdefault(name, [])
                self._beside[endpoint].append(endpoint)
                self._by_pod[source.namespace, name] = (source.key, endpoint)
                self._once(self._by_name, name, source.key, endpoint)
                self._pod_at[_address(endpoint)] = (source.namespace, name)
            for endpoint in source.endpoints:
                self._once(self._by_address, _address(endpoint), source.key, endpoint)
            if source.pods_known or not source.endpoints:
                self._by_model.setdefault(source.model, []).append(source)
        self._siblings.retain(endpoints)

    @staticmethod
    def _once(table: dict[str, tuple[str, str] | None], name: str, key: str, endpoint: str) -> None:
        """A name that two variants share identifies neither."""
        table[name] = None if name in table else (key, endpoint)

    def attribute(self, samples: Iterable[Sampled]) -> list[Attributed]:
        """The samples that belong to variants.

        Of several addresses of one pod the endpoint's counts, and those of other processes: data-parallel
        engines at ports that only Prometheus knows. One that does not say when its process started may be the
        same server, which two jobs scrape, until its counters say otherwise. Where a pod has several
        endpoints and its series have other addresses, each stands for one of them, by its port if that says
        which.
        """
        best: dict[tuple[str, str], tuple[tuple[tuple[bool, bool], str, float], Attributed]] = {}
        others: dict[tuple[str, str], list[Attributed]] = {}
        for sampled in samples:
            match = self._of(sampled)
            if match is None:
                continue
            # Servers without a name of their model are those that their address says.
            if sampled.model and sampled.model != self._models[match.key]:
                self.problems[match.key] = (
                    f"{sampled.pod or sampled.instance} serves model {sampled.model!r}, not"
                    f" {self._models[match.key]!r}; spec.modelID must be the served model name"
                )
                continue
            address = _address(match.endpoint)
            exact = (sampled.instance == address, _port(sampled.instance) == _port(address))
            # The rest of the order only makes the choice the same every time.
            rank = (exact, sampled.instance, sampled.sampled_at)
            pod = (match.key, match.endpoint)
            others.setdefault(pod, []).append(match)
            if pod not in best or rank > best[pod][0]:
                best[pod] = (rank, match)
        attributed = [match for _, match in best.values()]
        for pod, (_, match) in best.items():
            if len(others[pod]) > 1:
                free = [
                    e for e in self._beside.get(match.endpoint, ()) if (match.key, e) not in best
                ]
                attributed += self._more_servers(match, others[pod], free)
        return attributed

    def _more_servers(
        self, counted: Attributed, among: Iterable[Attributed], free: Sequence[str]
    ) -> list[Attributed]:
        """Other servers of the pod whose endpoint is counted: those of other processes.

        Args:
            counted: The server that counts for the endpoint.
            among: All of that pod.
            free: Endpoints of the pod that no server counts for yet.

        """
        items = sorted(among, key=lambda item: item.sampled.instance)
        for item in items:
            sampled = item.sampled
            if sampled.page is not None:
                at = sampled.sampled_at
                self._siblings.note(counted.endpoint, sampled.instance, sampled.page, at=at)
        kept, instances = [counted], {counted.sampled.instance}
        for item in items:
            instance = item.sampled.instance
            if instance in instances or instance.endswith(_MERGED_PORT):
                continue
            if all(self._apart(other, item) for other in kept):
                kept.append(item)
                instances.add(instance)
            elif item.sampled.page is not None and _start(item) is None:
                self.undecided = True
        named = len(free)
        further = [
            replace(
                item, endpoint=f"{item.endpoint}{_FURTHER}{item.sampled.instance}", further=True
            )
            for item in kept[1 + named :]
        ]
        own = zip(kept[1 : 1 + named], free, strict=False)
        return [*(replace(item, endpoint=endpoint) for item, endpoint in own), *further]

    def _apart(self, one: Attributed, other: Attributed) -> bool:
        """Whether two addresses of a pod are of two processes, by their starts, or else their counters."""
        start, started = _start(one), _start(other)
        if start is not None and started is not None:
            return abs(start - started) > SAME_PROCESS_SECONDS
        return self._siblings.apart(one.endpoint, one.sampled.instance, other.sampled.instance)

    def _of(self, sampled: Sampled) -> Attributed | None:
        how: How = "pod"
        match = self._by_pod.get((sampled.namespace, sampled.pod)) if sampled.pod else None
        if match is None and sampled.pod and not sampled.namespace:
            match, how = self._by_name.get(sampled.pod), "pod without namespace"
        if match is None and self._address_agrees(sampled):
            # The address identifies pods that are not known, or whose series have no pod label.
            match, how = self._by_address.get(sampled.instance), "address"
        if match is None:
            match, how = self._by_only_variant(sampled), "model"
        if match is None:
            return None
        at = self._by_address.get(sampled.instance)
        if how == "pod" and at is not None and at[0] == match[0] and self._address_agrees(sampled):
            # One of several servers of the pod.
            match = at
        key, endpoint = match
        if sampled.instance != _address(endpoint):
            port = _port(sampled.instance)
            among = self._beside.get(endpoint, ())
            endpoint = next((e for e in among if _port(_address(e)) == port), endpoint)
        return Attributed(key=key, endpoint=endpoint, sampled=sampled, how=how)

    def _address_agrees(self, sampled: Sampled) -> bool:
        """Whether the labels allow the pod at its address: addresses are reused, also by other clusters."""
        namespace, pod = self._pod_at.get(sampled.instance, (sampled.namespace, sampled.pod))
        return sampled.namespace in {"", namespace} and sampled.pod in {"", pod}

    def _by_only_variant(self, sampled: Sampled) -> tuple[str, str] | None:
        """The only variant of its model that may have pods which the objects do not name.

        A variant whose pods are known may have some that are not ready: these are not another variant's.
        """
        among = [
            source
            for source in self._by_model.get(sampled.model, ())
            if sampled.namespace in {"", source.namespace}
        ]
        unknown = [source for source in among if not source.pods_known]
        if len(among) == 1 and unknown:
            name = f"{sampled.namespace}/{sampled.pod or sampled.instance}"
            return among[0].key, f"prometheus:{name}"
        for source in unknown:
            self.problems[source.key] = (
                f"{len(among)} variants serve {sampled.model!r}, and no label distinguishes their series:"
                " list their servers in the annotation llmd.ai/metrics-endpoints"
            )
        return None


def _start(item: Attributed) -> float | None:
    return None if item.sampled.page is None else item.sampled.page.started_at


def _port(address: str) -> str:
    return address.rpartition(":")[2]


_FURTHER = " and "
"""What separates a pod's endpoint and the address of one more server in the name of that server."""


def pod_of(name: str) -> str:
    """The endpoint of the pod in the name of one more server of it; other names as they are."""
    return name.partition(_FURTHER)[0]


def _address(url: str) -> str:
    """HOST:PORT as Prometheus has it in `instance`."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return f"{host}:{port}"
