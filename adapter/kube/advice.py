"""What an administrator can do about a refused request: one table for every component.

The first row that fits the class of the error and the path of its request counts.
"""

from __future__ import annotations

import re

from adapter.kube.errors import ApiError, Forbidden, NotFound, Unauthorized

FRONT_PROXY_READER = (
    "bind Role extension-apiserver-authentication-reader of kube-system to the adapter's ServiceAccount:"
    " kubectl apply -f manifests/base/rbac.yaml"
)
"""Advice for a start without the front-proxy configuration, whatever keeps it from being read."""

NO_ANSWER = (
    "check that the API server is up, and that --kubeconfig and --context name the right cluster"
)
"""Advice for a person whose request had no answer."""

NO_RIGHT = "have that right granted to you, or name another --kubeconfig or --context"
"""Advice for a person whose request RBAC refuses: our manifests grant rights to the adapter only."""

_TABLE: tuple[tuple[type[ApiError], str, str], ...] = (
    (Forbidden, r"/kube-system/configmaps", FRONT_PROXY_READER),
    # Owner references are the only fields beside the status that the adapter writes.
    (
        Forbidden,
        r"/variantautoscalings/[^/]+$",
        "grant it: kubectl apply -f manifests/overlays/limited/owners.yaml",
    ),
    (
        Forbidden,
        r"/portforward$",
        "explain, top and ui need the verbs get and create on pods/portforward, or a metrics port by --url",
    ),
    (Forbidden, r"/nodes$", "grant it: kubectl apply -f manifests/overlays/limited/nodes.yaml"),
    (Forbidden, r"", "grant it: kubectl apply -f manifests/base/rbac.yaml"),
    (Unauthorized, r"", "renew the credentials of the kubeconfig or the ServiceAccount"),
    (NotFound, r"/leases/", "is the adapter installed? run variant-adapter doctor"),
    (
        NotFound,
        r"^/apis/llmd\.ai/(?!.*/variantautoscalings/)",
        "install the CRD: kubectl apply -k manifests/crd",
    ),
)


def of(error: ApiError | None) -> str:
    """What to do about the error; empty where only waiting helps, or there is no error."""
    for kind, path, text in _TABLE:
        if isinstance(error, kind) and re.search(path, error.path):
            return text
    return ""


def explained(error: ApiError) -> str:
    """The error's message, followed by what to do about it."""
    text = of(error)
    return f"{error}; {text}" if text else str(error)
