"""Content negotiation: the representation that a client accepts, and its encoding."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from adapter.apiserver import status as api_status

Form = Literal["json", "yaml"]

JSON, YAML = "application/json", "application/yaml"
AVAILABLE = (JSON, YAML)
_FORMS: Mapping[str, Form] = {"*/*": "json", JSON: "json", YAML: "yaml"}
DISCOVERY_GROUP = "apidiscovery.k8s.io"
DISCOVERY_KIND = "APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The representation that was negotiated.

    Attributes:
        form: JSON or YAML.
        discovery: Version of aggregated discovery; empty for plain documents.

    """

    form: Form
    discovery: str = ""


@functools.lru_cache(maxsize=64)
def accepted(header: str, *, discovery: bool = False) -> Accepted:
    """Choose from an Accept header: by weight, then by order, as kube-apiserver does.

    Args:
        header: value of Accept; empty accepts everything.
        discovery: whether there is an aggregated discovery document at this path.

    Raises:
        StatusError: 406, no acceptable representation is available.

    """
    parts = [part for part in (item.strip() for item in header.split(",")) if part]
    if not parts:
        return Accepted("json")
    for part in sorted(parts, key=_weight, reverse=True):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        given = dict(piece.partition("=")[::2] for piece in parameters)
        form = _FORMS.get(kind)
        if form is None:
            continue
        if "as" in given:
            version = given.get("v", "")
            is_discovery = given["as"] == DISCOVERY_KIND and given.get("g") == DISCOVERY_GROUP
            if discovery and is_discovery and version in {"v2", "v2beta1"} and kind == JSON:
                return Accepted("json", version)
            continue
        return Accepted(form)
    raise api_status.not_acceptable(AVAILABLE)


def _weight(part: str) -> float:
    """The q parameter; 1 where it is missing or not a number."""
    match = re.search(r";\s*q\s*=\s*([0-9.]+)\s*(?:;|$)", part)
    try:
        return float(match[1]) if match else 1.0
    except ValueError:
        return 1.0


def write(document: Any, form: Form, *, pretty: bool) -> tuple[bytes, str]:
    """Encode a document; give its bytes and their content type."""
    if form == "yaml":
        return yaml.safe_dump(document, sort_keys=True, allow_unicode=True).encode(), YAML
    style: dict[str, Any] = {"indent": 2} if pretty else {"separators": (",", ":")}
    return (json.dumps(document, **style) + "\n").encode(), JSON
