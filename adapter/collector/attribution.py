"""Whose pods the series in Prometheus are: variants by their scale targets' pods, not by their model.

Two variants of one model in one namespace are told apart by their pods. Series without such labels, as those
of servers that a static configuration scrapes, are attributed by address, and by model where only one
variant serves it; how, is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from adapter.collector.promql import Sampled
from adapter.resources.variant import VariantSource

How = Literal["pod", "pod without namespace", "address", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """One pod's series with the variant that it belongs to.

    Attributes:
        key: of the variant.
        endpoint: of the pod; where that is not known a name made of its labels.

    """

    key: str
    endpoint: str
    sampled: Sampled
    how: How


class Attribution:
    """Finds the variant of each pod in an answer.

    Attributes:
        problems: of variants some of whose series could not be used, by key.

    """

    def __init__(self, variants: Iterable[VariantSource]) -> None:
        self._by_pod: dict[tuple[str, str], tuple[str, str]] = {}
        self._by_name: dict[str, tuple[str, str] | None] = {}
        self._by_address: dict[str, tuple[str, str] | None] = {}
        self._pod_at: dict[str, tuple[str, str]] = {}
        self._by_model: dict[str, list[VariantSource]] = {}
        self._models: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        for source in variants:
            self._models[source.key] = source.model
            for name, endpoint in zip(source.pods, source.endpoints, strict=False):
                self._by_pod[source.namespace, name] = (source.key, endpoint)
                self._once(self._by_name, name, source.key, endpoint)
                self._pod_at[_address(endpoint)] = (source.namespace, name)
            for endpoint in source.endpoints:
                self._once(self._by_address, _address(endpoint), source.key, endpoint)
            if source.pods_known or not source.endpoints:
                self._by_model.setdefault(source.model, []).append(source)

    @staticmethod
    def _once(table: dict[str, tuple[str, str] | None], name: str, key: str, endpoint: str) -> None:
        """What two variants have tells neither."""
        table[name] = None if name in table else (key, endpoint)

    def all(self, samples: Iterable[Sampled]) -> list[Attributed]:
        """Those that belong to variants; of several addresses of one pod the one that we would ask."""
        best: dict[tuple[str, str], tuple[tuple[bool, str, float], Attributed]] = {}
        for sampled in samples:
            found = self._of(sampled)
            if found is None:
                continue
            if sampled.model != self._models[found.key]:
                self.problems[found.key] = (
                    f"{sampled.pod or sampled.instance} serves model {sampled.model!r}, not"
                    f" {self._models[found.key]!r}; spec.modelID must be the served model name"
                )
                continue
            exact = sampled.instance == _address(found.endpoint)
            # The rest of the order only makes the choice the same every time.
            rank = (exact, sampled.instance, sampled.sampled_at)
            place = (found.key, found.endpoint)
            if place not in best or rank > best[place][0]:
                best[place] = (rank, found)
        return [found for _, found in best.values()]

    def _of(self, sampled: Sampled) -> Attributed | None:
        how: How = "pod"
        found = self._by_pod.get((sampled.namespace, sampled.pod)) if sampled.pod else None
        if found is None and sampled.pod and not sampled.namespace:
            found, how = self._by_name.get(sampled.pod), "pod without namespace"
        if found is None and self._may_be_there(sampled):
            # The address says it where pods are not known, or not labelled.
            found, how = self._by_address.get(sampled.instance), "address"
        if found is None:
            found, how = self._only(sampled), "model"
        if found is None:
            return None
        key, endpoint = found
        return Attributed(key=key, endpoint=endpoint, sampled=sampled, how=how)

    def _may_be_there(self, sampled: Sampled) -> bool:
        """Whether labels allow the pod at its address; addresses are used again, and in other clusters."""
        namespace, pod = self._pod_at.get(sampled.instance, (sampled.namespace, sampled.pod))
        return sampled.namespace in {"", namespace} and sampled.pod in {"", pod}

    def _only(self, sampled: Sampled) -> tuple[str, str] | None:
        """The only variant of its model that may have pods which we do not know.

        Those whose pods are looked at have some that are not ready: these are nobody else's.
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
                f"{len(among)} variants serve {sampled.model!r}, and nothing tells their series apart:"
                " name their servers in the annotation llmd.ai/metrics-endpoints"
            )
        return None


def _address(url: str) -> str:
    """HOST:PORT as Prometheus has it in `instance`."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return f"{host}:{port}"
