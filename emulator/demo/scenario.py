"""The demo's scenario: the README case of the workload-variant-autoscaler, as manifests in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from adapter.resources.annotations import ACCELERATOR_LABEL, ENDPOINTS
from emulator.load import Phase

NAMESPACE, NAME, MODEL, ACCELERATOR = "llm-d-sim", "vllme-deployment", "default/default", "A100"
UNIT_COST = 40.0
SLO_ITL_MS, SLO_TTFT_MS = 24.0, 500.0
ALPHA_MS, BETA_MS, MAX_BATCH = 20.58, 0.41, 4
INPUT_TOKENS, OUTPUT_TOKENS = 50, 178


def default_phases(duration: float) -> tuple[Phase, ...]:
    """Load for one replica, then for two, then none, over `duration` scenario seconds."""
    shares = ((0.15, 20.0), (0.45, 60.0), (0.4, 0.0))
    return tuple(Phase(duration_seconds=share * duration, rate_rpm=rate) for share, rate in shares)


def write_objects(folder: Path) -> None:
    """Write the manifests of the ConfigMaps and the VariantAutoscaling."""
    folder.mkdir(parents=True, exist_ok=True)
    service_class = {
        "name": "Premium",
        "priority": 1,
        "data": [{"model": MODEL, "slo-tpot": SLO_ITL_MS, "slo-ttft": SLO_TTFT_MS}],
    }
    cost = {"device": "NVIDIA-A100-PCIE-80GB", "cost": f"{UNIT_COST:.2f}"}
    config_maps = [
        _config_map("accelerator-unit-costs", {ACCELERATOR: json.dumps(cost)}),
        _config_map("service-classes-config", {"premium": yaml.safe_dump(service_class)}),
    ]
    variant = {
        "apiVersion": "llmd.ai/v1alpha1",
        "kind": "VariantAutoscaling",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {ACCELERATOR_LABEL: ACCELERATOR},
        },
        "spec": {
            "modelID": MODEL,
            "sloClassRef": {"name": "premium", "key": MODEL},
            "modelProfile": {
                "accelerators": [
                    {
                        "acc": ACCELERATOR,
                        "accCount": 1,
                        "alpha": str(ALPHA_MS),
                        "beta": str(BETA_MS),
                        "maxBatchSize": MAX_BATCH,
                    }
                ]
            },
        },
    }
    (folder / "configmaps.yaml").write_text(yaml.safe_dump_all(config_maps, sort_keys=False))
    (folder / "variant.yaml").write_text(yaml.safe_dump(variant, sort_keys=False))


def write_deployment(folder: Path, endpoints: Sequence[str], replicas: int) -> None:
    """Write the Deployment's manifest with its present replicas; the file is replaced atomically."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "annotations": {ENDPOINTS: " ".join(f"{url}/metrics" for url in endpoints)},
        },
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas},
    }
    temporary = folder / ".deployment.yaml.new"
    temporary.write_text(yaml.safe_dump(deployment, sort_keys=False))
    temporary.replace(folder / "deployment.yaml")


def _config_map(name: str, data: dict[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "workload-variant-autoscaler-system"},
        "data": data,
    }
