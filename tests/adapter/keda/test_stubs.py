"""The stubs in the repository are those that the .proto gives, and its numbers are KEDA's."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from adapter.keda.protocol import externalscaler_pb2 as messages

ROOT = Path(__file__).resolve().parents[3]


def test_stubs_are_not_stale(tmp_path: Path) -> None:
    """Generated anew, they are the same; run scripts/generate_keda.py where not."""
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed (extra dev)")
    script = ROOT / "scripts" / "generate_keda.py"
    subprocess.run([sys.executable, "-P", str(script), str(tmp_path)], check=True, cwd=ROOT)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    assert len(made) == 3
    for path in made:
        # The compiler's version stands in comments and checks; the rest is the contract.
        assert _lines(tmp_path / path) == _lines(ROOT / path), path


def _lines(path: Path) -> list[str]:
    """Lines without those that only name versions."""
    numbers = (
        "# Protobuf Python Version",
        "GRPC_GENERATED_VERSION = ",
        "    7,",
        "    35,",
        "    1,",
    )
    return [line for line in path.read_text().splitlines() if not line.startswith(numbers)]


def test_names_and_numbers_are_those_of_keda() -> None:
    """The wire format: what KEDA's operator is compiled with."""
    service = messages.DESCRIPTOR.services_by_name["ExternalScaler"]
    assert service.full_name == "externalscaler.ExternalScaler"
    assert {
        method.name: (method.input_type.name, method.output_type.name, method.server_streaming)
        for method in service.methods
    } == {
        "IsActive": ("ScaledObjectRef", "IsActiveResponse", False),
        "StreamIsActive": ("ScaledObjectRef", "IsActiveResponse", True),
        "GetMetricSpec": ("ScaledObjectRef", "GetMetricSpecResponse", False),
        "GetMetrics": ("GetMetricsRequest", "GetMetricsResponse", False),
        "StreamMetricSpec": ("ScaledObjectRef", "GetMetricSpecResponse", True),
    }
    fields = {
        message.name: {field.name: (field.number, field.type) for field in message.fields}
        for message in messages.DESCRIPTOR.message_types_by_name.values()
    }
    text, integer, real, flag, message = 9, 3, 1, 8, 11
    assert fields == {
        "ScaledObjectRef": {
            "name": (1, text),
            "namespace": (2, text),
            "scalerMetadata": (3, message),
        },
        "IsActiveResponse": {"result": (1, flag)},
        "GetMetricSpecResponse": {"metricSpecs": (1, message)},
        "MetricSpec": {
            "metricName": (1, text),
            "targetSize": (2, integer),
            "targetSizeFloat": (3, real),
        },
        "GetMetricsRequest": {"scaledObjectRef": (1, message), "metricName": (2, text)},
        "GetMetricsResponse": {"metricValues": (1, message)},
        "MetricValue": {
            "metricName": (1, text),
            "metricValue": (2, integer),
            "metricValueFloat": (3, real),
        },
    }
