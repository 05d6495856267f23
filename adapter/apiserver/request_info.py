"""The action of a request, by method and path as kube-apiserver has it: verb, and resource or plain path."""

from __future__ import annotations

from urllib.parse import unquote

from multidict import MultiMapping

from adapter.apiserver.discovery import GROUP, VERSION
from adapter.auth import authorization, users
from adapter.kube import labels

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OPERATORS = {
    "=": "In", "in": "In", "!=": "NotIn", "notin": "NotIn", "exists": "Exists", "!": "DoesNotExist",
}  # fmt: skip
_FALSE = {"false", "0", "f", ""}
_PREFIX = ("apis", GROUP, VERSION)


def attributes(
    method: str, raw_path: str, path: str, query: MultiMapping[str]
) -> authorization.Attributes:
    """The action of a request, for authorization; its label selector is left out, unparsed.

    Args:
        method: HTTP method.
        raw_path: path, still percent-encoded, without the query.
        path: path, decoded.
        query: parameters; of repeated ones the first counts.

    """
    parts = [part for part in raw_path.split("/") if part]
    if tuple(parts[:3]) != _PREFIX or len(parts) < 4:
        return authorization.Attributes(verb=_VERBS.get(method, method.lower()), path=path)
    rest = [unquote(part) for part in parts[3:]]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        # A namespace without anything below it is itself the resource.
        rest = rest[2:] or rest[:2]
    resource, name = rest[0], rest[1] if len(rest) > 1 else ""
    verb = _VERBS.get(method) or ("get" if name else "list")
    if verb == "list" and watches(query):
        verb = "watch"
    return authorization.Attributes(
        verb=verb,
        path=path,
        group=GROUP,
        version=VERSION,
        namespace=namespace,
        resource=resource,
        name=name,
        subresource=rest[2] if len(rest) > 2 else "",
    )


def metric(raw_path: str) -> tuple[str, str] | None:
    """Namespace and metric of `/apis/GROUP/VERSION/namespaces/NS/METRIC`; None for other paths."""
    parts = [part for part in raw_path.split("/") if part]
    if len(parts) != 6 or (*parts[:4],) != (*_PREFIX, "namespaces"):
        return None
    namespace, name = unquote(parts[4]), unquote(parts[5])
    return None if "/" in namespace + name or name in {".", ".."} else (namespace, name)


def watches(query: MultiMapping[str]) -> bool:
    """Whether the request is a watch: any value but false."""
    return query.get("watch", "false").lower() not in _FALSE


def forbidden(user: users.User, action: authorization.Attributes, reason: str) -> str:
    """Message of a 403, in kube-apiserver's words."""
    if not action.resource:
        text = f'forbidden: User "{user.name}" cannot {action.verb} path "{action.path}"'
    else:
        resource = action.resource + (f"/{action.subresource}" if action.subresource else "")
        named = f' "{action.name}"' if action.name else ""
        where = (
            f' in the namespace "{action.namespace}"'
            if action.namespace
            else " at the cluster scope"
        )
        text = (
            f'{action.resource}.{GROUP}{named} is forbidden: User "{user.name}" cannot {action.verb}'
            f' resource "{resource}" in API group "{GROUP}"{where}'
        )
    return f"{text}: {reason}" if reason else text


def requirements(
    query: MultiMapping[str], action: authorization.Attributes
) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Label selector for a review of an action on a collection.

    Empty where a term has no counterpart, the text is malformed, or the action is not on a collection.
    """
    if not action.resource or action.name:
        return ()
    try:
        terms = labels.parse(query.get("labelSelector", "")).requirements
    except labels.SelectorError:
        return ()
    if any(term.operator not in _OPERATORS for term in terms):
        return ()
    return tuple((term.key, _OPERATORS[term.operator], term.values) for term in terms)
