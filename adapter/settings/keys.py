"""Keys of the adapter's ConfigMap: problems with them, and keys of another autoscaler that are ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapter.settings.groups import all_declarations, by_key

_UNCACHED, _UNCACHED_PAGES = (
    "Answers of Prometheus are not cached",
    "Pages of endpoint pickers are not cached",
)
_OF_PROCESS = "How the process runs is set by flags in the arguments of the container"

IGNORED: Mapping[str, str] = {
    "GLOBAL_OPT_TRIGGER": "A significant rise of load starts a reconcile cycle by itself",
    "WVA_LIMITED_MODE": "Set --limited instead",
    "WVA_NODE_SELECTOR": "All nodes count with --limited",
    "DISABLING_TTFT": "TTFT targets count whenever a service class has them",
    "EXPERIMENTAL_HYBRID_OPTIMIZATION": "One optimizer makes every decision",
    "EPP_METRIC_READER_BEARER_TOKEN": "Set --gateways-token-file instead",
    "SCALE_FROM_ZERO_ENGINE_MAX_CONCURRENCY": "Variants at zero replicas are woken together",
    "WVA_EXPERIMENTAL_PROACTIVE_MODEL": "One optimizer makes every decision",
    "CONTROLLER_INSTANCE": "Set --selector instead",
    "WATCH_NAMESPACE": "Set --namespaces instead",
    "EPP_METRICS_CACHE_ENABLED": _UNCACHED_PAGES,
    "EPP_METRICS_CACHE_TTL": _UNCACHED_PAGES,
    "EPP_METRICS_CACHE_CLEANUP_INTERVAL": _UNCACHED_PAGES,
    "EPP_METRICS_CACHE_MAX_SIZE": _UNCACHED_PAGES,
    "PROMETHEUS_METRICS_CACHE_ENABLED": _UNCACHED,
    "PROMETHEUS_METRICS_CACHE_TTL": _UNCACHED,
    "PROMETHEUS_METRICS_CACHE_CLEANUP_INTERVAL": _UNCACHED,
    "PROMETHEUS_METRICS_CACHE_FETCH_INTERVAL": "Set --scrape-interval instead",
    "PROMETHEUS_METRICS_CACHE_FRESH_THRESHOLD": "Set --stale-after instead",
    "PROMETHEUS_METRICS_CACHE_STALE_THRESHOLD": "Set --stale-after instead",
    "PROMETHEUS_METRICS_CACHE_UNAVAILABLE_THRESHOLD": "Set --time-to-live instead",
    "PROMETHEUS_METRICS_CACHE_MAX_SIZE": _UNCACHED,
    "OTEL_TARGET_ENDPOINT_GRPC": "Traces are not exported",
    "OTEL_TARGET_CA_CERT_PATH": "Traces are not exported",
    **dict.fromkeys(
        (
            "METRICS_BIND_ADDRESS",
            "HEALTH_PROBE_BIND_ADDRESS",
            "LEADER_ELECT",
            "LEADER_ELECTION_ID",
            "LEADER_ELECTION_LEASE_DURATION",
            "LEADER_ELECTION_RENEW_DEADLINE",
            "LEADER_ELECTION_RETRY_PERIOD",
            "REST_CLIENT_TIMEOUT",
            "METRICS_SECURE",
            "ENABLE_HTTP2",
            "V",
            "WEBHOOK_CERT_PATH",
            "WEBHOOK_CERT_NAME",
            "WEBHOOK_CERT_KEY",
            "METRICS_CERT_PATH",
            "METRICS_CERT_NAME",
            "METRICS_CERT_KEY",
        ),
        _OF_PROCESS,
    ),
}
"""Keys of the workload-variant-autoscaler's ConfigMap that are not used here, with the reason."""

NESTED = "config.yaml"
"""Key under which newer releases of the workload-variant-autoscaler keep a YAML file of settings."""

_SAME = 0.8
"""Likeness from which on a key is another one with a typing error: `budget`, `bugdets`, no `widgets`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingProblem:
    """One entry of the ConfigMap that has no effect.

    Attributes:
        where: ConfigMap that has it; empty where that is clear.
        key: Key of the entry.
        message: What is wrong, and what is accepted.
        unused: True for keys of another autoscaler that only have no effect here.

    """

    where: str = ""
    key: str
    message: str
    unused: bool = False

    def __str__(self) -> str:
        """The whole problem as one line."""
        return f"{f'{self.where}: ' if self.where else ''}data.{self.key}: {self.message}"


def problems(data: Mapping[str, str], where: str = "") -> Iterator[SettingProblem]:
    """Each unknown or unused key and each value that cannot be used, in the order of the data."""
    known = by_key()
    for key, text in data.items():
        if key in known:
            if text.strip():
                try:
                    known[key].parse(text.strip())
                except ValueError as error:
                    yield SettingProblem(where=where, key=key, message=str(error))
        elif key == NESTED:
            message = (
                "settings in a nested file are not read; make each a key of data, such as"
                f" {', '.join(list(known)[:2])}"
            )
            yield SettingProblem(where=where, key=key, message=message)
        elif key in IGNORED:
            if text.strip():
                message = f"has no effect here: {IGNORED[key]}"
                yield SettingProblem(where=where, key=key, message=message, unused=True)
        else:
            message = f"unknown setting; {_hint(key, known)}"
            yield SettingProblem(where=where, key=key, message=message)


def misspelled(problem: SettingProblem, key: str) -> bool:
    """Whether the entry is unknown, and its key this one in other case or with a typing error."""
    name = problem.key.strip().lower()
    unknown = problem.key not in by_key() and not problem.unused
    return unknown and bool(difflib.get_close_matches(name, [key.lower()], cutoff=_SAME))


def _hint(key: str, known: Mapping[str, object]) -> str:
    """The setting whose flag has this name, or the nearest known key, or all known keys."""
    flag = f"--{key.strip('-').lower().replace('_', '-')}"
    named = next((item for item in all_declarations() if item.flag == flag), None)
    if named is not None and not named.key:
        return f"{flag} is a flag only: set it in the arguments of the container"
    keys = {item.upper(): item for item in known}
    alike = difflib.get_close_matches(key.upper(), keys, n=2, cutoff=0.7)
    near = [named.key] if named else [keys[name] for name in alike]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(known)}"
