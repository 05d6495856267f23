"""Discovery documents, which kubectl and the aggregation layer read before all else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
_GROUP_VERSION = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
_PATHS = (
    "/apis",
    f"/apis/{GROUP}",
    f"/apis/{GROUP}/{VERSION}",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
)


def paths() -> dict[str, Any]:
    """The list of paths, for `/` and unknown paths."""
    return {"paths": list(_PATHS)}


def document(path: str, metrics: Sequence[str]) -> dict[str, Any] | None:
    """The discovery document at a path, with these metrics as resources; None for other paths."""
    match path.rstrip("/"):
        case "":
            return paths()
        case "/apis":
            group = {"name": GROUP, "versions": [_GROUP_VERSION]}
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [{**group, "preferredVersion": _GROUP_VERSION}],
            }
        case p if p == f"/apis/{GROUP}":
            return {
                "kind": "APIGroup",
                "apiVersion": "v1",
                "name": GROUP,
                "versions": [_GROUP_VERSION],
                "preferredVersion": _GROUP_VERSION,
            }
        case p if p == f"/apis/{GROUP}/{VERSION}":
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                # Never empty: kubectl warns of an API without resources.
                "resources": [_resource(name) for name in metrics or ("externalmetrics",)],
            }
        case "/version":
            release = version("variant-adapter")
            major, minor = release.split(".")[:2]
            return {"major": major, "minor": minor, "gitVersion": f"v{release}"}
    return None


def aggregated(version: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Aggregated discovery: all resources in one document of apidiscovery.k8s.io `version`."""
    resources = [
        {
            "resource": name,
            "responseKind": {"group": "", "version": "", "kind": "ExternalMetricValueList"},
            "scope": "Namespaced",
            "singularResource": "",
            "verbs": ["get"],
        }
        for name in metrics or ("externalmetrics",)
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": GROUP},
                "versions": [{"version": VERSION, "resources": resources, "freshness": "Current"}],
            }
        ],
    }


def _resource(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "singularName": "",
        "namespaced": True,
        "kind": "ExternalMetricValueList",
        "verbs": ["get"],
    }
