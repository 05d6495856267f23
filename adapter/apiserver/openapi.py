"""OpenAPI v2 and v3 documents of the one path of the API, which kube-apiserver merges into its own."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from typing import Any

from adapter.apiserver.discovery import GROUP, VERSION

V3_CHILD = f"/openapi/v3/apis/{GROUP}/{VERSION}"
_PATH = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{{resource}}"
_MODEL = f"io.k8s.metrics.pkg.apis.external_metrics.{VERSION}"
_PARAMETERS = (
    ("namespace", "path", "namespace of the metric", True),
    ("resource", "path", "name of the metric", True),
    ("labelSelector", "query", "restricts the series by their labels", False),
    ("pretty", "query", "'true' indents the answer", False),
)


def _schemas(prefix: str) -> dict[str, Any]:
    text = {"type": "string"}
    value = {
        "description": "One value of an external metric.",
        "type": "object",
        "required": ["metricName", "metricLabels", "timestamp", "value"],
        "properties": {
            "metricName": {**text, "description": "name of the metric"},
            "metricLabels": {
                "description": "labels of the series",
                "type": "object",
                "additionalProperties": text,
            },
            "timestamp": {**text, "format": "date-time", "description": "when it was decided"},
            "window": {
                "description": "seconds over which it was taken; 0 or absent: at the timestamp",
                "type": "integer",
                "format": "int64",
            },
            "value": {**text, "description": "a quantity such as 3 or 3500m"},
        },
    }
    kind = {"group": GROUP, "version": VERSION, "kind": "ExternalMetricValueList"}
    values = {
        "description": "Values of an external metric, one for each series.",
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": {"type": "object"},
            "items": {"type": "array", "items": {"$ref": f"{prefix}{_MODEL}.ExternalMetricValue"}},
        },
        "x-kubernetes-group-version-kind": [kind],
    }
    return {f"{_MODEL}.ExternalMetricValue": value, f"{_MODEL}.ExternalMetricValueList": values}


def _operation() -> dict[str, Any]:
    return {
        "description": "list the values of an external metric",
        "operationId": "listExternalMetricsV1beta1ExternalMetricValue",
        "tags": ["externalMetrics_v1beta1"],
        "x-kubernetes-action": "list",
        "x-kubernetes-group-version-kind": {
            "group": GROUP, "version": VERSION, "kind": "ExternalMetricValueList",
        },
    }  # fmt: skip


def _info() -> dict[str, str]:
    return {"title": "variant-adapter", "version": version("variant-adapter")}


@cache
def v2() -> tuple[bytes, str]:
    """Swagger 2.0 document and its ETag."""
    prefix = "#/definitions/"
    get = _operation() | {
        "produces": ["application/json", "application/yaml"],
        "schemes": ["https"],
        "responses": {
            "200": {
                "description": "OK",
                "schema": {"$ref": f"{prefix}{_MODEL}.ExternalMetricValueList"},
            }
        },
    }
    parameters = [
        {"name": name, "in": place, "description": text, "required": required, "type": "string"}
        for name, place, text, required in _PARAMETERS
    ]
    return _tagged(
        {
            "swagger": "2.0",
            "info": _info(),
            "paths": {_PATH: {"get": get, "parameters": parameters}},
            "definitions": _schemas(prefix),
        }
    )


@cache
def v3_child() -> tuple[bytes, str]:
    """OpenAPI 3.0 document of the group and its ETag."""
    prefix = "#/components/schemas/"
    schema = {"$ref": f"{prefix}{_MODEL}.ExternalMetricValueList"}
    get = _operation() | {
        "responses": {
            "200": {
                "description": "OK",
                "content": {
                    "application/json": {"schema": schema},
                    "application/yaml": {"schema": schema},
                },
            }
        }
    }
    parameters = [
        {
            "name": name,
            "in": place,
            "description": text,
            "required": required,
            "schema": {"type": "string"},
        }
        for name, place, text, required in _PARAMETERS
    ]
    return _tagged(
        {
            "openapi": "3.0.0",
            "info": _info(),
            "paths": {_PATH: {"get": get, "parameters": parameters}},
            "components": {"schemas": _schemas(prefix)},
        }
    )


@cache
def v3() -> tuple[bytes, str]:
    """Index of the OpenAPI 3.0 documents and its ETag."""
    _, child = v3_child()
    key = V3_CHILD.removeprefix("/openapi/v3/")
    return _tagged({"paths": {key: {"serverRelativeURL": f"{V3_CHILD}?hash={child}"}}})


def _tagged(document: dict[str, Any]) -> tuple[bytes, str]:
    body = json.dumps(document, separators=(",", ":")).encode()
    return body, tag(body)


def tag(body: bytes) -> str:
    """ETag of a document."""
    return hashlib.sha512(body).hexdigest().upper()
