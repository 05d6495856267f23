"""RBAC as Kubernetes evaluates it, for the in-memory API: roles and bindings among objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

_BUILT_IN: list[dict[str, Any]] = [
    {
        "kind": "Role",
        "metadata": {
            "name": "extension-apiserver-authentication-reader",
            "namespace": "kube-system",
        },
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": ["extension-apiserver-authentication"],
                "verbs": ["get", "list", "watch"],
            }
        ],
    },
    {
        "kind": "ClusterRole",
        "metadata": {"name": "system:auth-delegator"},
        "rules": [
            {
                "apiGroups": ["authentication.k8s.io"],
                "resources": ["tokenreviews"],
                "verbs": ["create"],
            },
            {
                "apiGroups": ["authorization.k8s.io"],
                "resources": ["subjectaccessreviews"],
                "verbs": ["create"],
            },
        ],
    },
]


class Action(NamedTuple):
    """An action that permissions are checked for; `resource` includes the subresource."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


def action_of(attributes: dict[str, Any]) -> Action:
    """The action of a SubjectAccessReview's resource attributes."""
    return Action(
        attributes["verb"],
        attributes.get("group", ""),
        "/".join(filter(None, (attributes["resource"], attributes.get("subresource")))),
        attributes.get("namespace", ""),
        attributes.get("name", ""),
    )


def allowed(objects: list[dict[str, Any]], user: str, action: Action) -> bool:
    """Whether roles and bindings among the objects allow the user an action."""
    return any(
        action.verb in rule["verbs"]
        and action.group in rule.get("apiGroups", ())
        and {action.resource, "*"} & set(rule["resources"])
        and (not rule.get("resourceNames") or action.name in rule["resourceNames"])
        for rule in _rules(objects, user, action.namespace)
    )


def allowed_url(objects: list[dict[str, Any]], user: str, verb: str, path: str) -> bool:
    """Whether roles and bindings among the objects allow the user a verb on a non-resource URL."""
    return any(
        verb in rule["verbs"] and path in rule.get("nonResourceURLs", ())
        for rule in _rules(objects, user, "")
    )


def _rules(objects: list[dict[str, Any]], user: str, namespace: str) -> Iterator[dict[str, Any]]:
    """Rules that a user has in a namespace; empty for the cluster scope."""
    roles = {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
        for item in [*objects, *_BUILT_IN]
        if item["kind"] in {"Role", "ClusterRole"}
    }
    for item in objects:
        if item["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        subjects = [
            f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
            for subject in item["subjects"]
            if subject["kind"] == "ServiceAccount"
        ]
        where = item["metadata"].get("namespace", "")
        if user not in subjects or (item["kind"] == "RoleBinding" and where != namespace):
            continue
        reference = item["roleRef"]
        space = where if reference["kind"] == "Role" else ""
        role = roles.get((reference["kind"], space, reference["name"]))
        yield from [] if role is None else role["rules"]
