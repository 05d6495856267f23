"""Discovery documents: what kubectl and the aggregator look up before they ask for anything."""

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
    "/readyz",
    "/version",
)


def document(path: str, metrics: Sequence[str]) -> dict[str, Any] | None:
    """The document at that path, with these metrics as resources; None where there is none."""
    match path.rstrip("/"):
        case "":
            return {"paths": list(_PATHS)}
        case "/apis":
            # No aggregated discovery here: with the plain list the aggregator reads the resources
            # from the version's own document, and finds them.
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


def _resource(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "singularName": "",
        "namespaced": True,
        "kind": "ExternalMetricValueList",
        "verbs": ["get"],
    }
