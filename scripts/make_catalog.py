"""Write the catalog of profiles that `variant-adapter profile` and the controller look up.

    pip install '.[profile]'
    python scripts/make_catalog.py [--estimates FILE]

Estimates come from aiconfigurator-core, which needs no GPU and no network; measured rows of
tests/data/replica calibrate them. `--estimates` keeps them in a file for
the next run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import catalog_calibration
import catalog_models
import numpy as np

from adapter.profiles import aiconfigurator, packing
from adapter.profiles.catalog import RUNTIME_GIB

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "adapter/profiles/catalog.json"
MEASURED = ROOT / "tests/data/replica/measured.csv"

LEAST_GIB = 5.0
"""Least weights, runtime (3.5) and buffers (0.3) on each GPU of a replica of several."""


def main() -> None:
    """Estimate, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimates", type=Path, help="file that keeps the raw estimates")
    args = parser.parse_args()
    if args.estimates is not None and args.estimates.exists():
        estimates = json.loads(args.estimates.read_text())
    else:
        estimates = estimate_all()
        if args.estimates is not None:
            args.estimates.write_text(json.dumps(estimates))
    calibrated = catalog_calibration.calibrate(estimates, MEASURED)
    for line in calibrated.report:
        print(line)
    TARGET.write_text(render(estimates, calibrated))
    print(f"{TARGET}: {len(estimates)} estimates, {len(calibrated.measured)} measured")


def estimate_all() -> dict[str, dict[str, Any]]:
    """Raw estimates by `model|precision|gpu|tp`; implausible ones are left out."""
    import aiconfigurator_core  # noqa: PLC0415 - where it stands tells where its configurations are

    package = Path(aiconfigurator_core.__file__).parent
    estimates: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        queries = catalog_models.queries(aiconfigurator.bundled_models(), package, Path(folder))
        for model, precision, gpu, query in queries:
            key = f"{model}|{precision}|{gpu}|{query.tp}"
            try:
                estimate = aiconfigurator.estimate(query)
            except aiconfigurator.NotEstimatedError as error:
                print(f"left out: {key}: {error}")
                continue
            half = estimates.get(f"{model}|{precision}|{gpu}|{query.tp // 2}")
            if problem := implausible(estimate, query.tp, half):
                print(f"left out: {key}: {problem}")
                continue
            estimates[key] = {
                "step": dataclasses.asdict(estimate.step_times),
                "memory": dataclasses.asdict(estimate.memory),
            }
    return estimates


def implausible(estimate: aiconfigurator.Estimate, tp: int, half: dict[str, Any] | None) -> str:
    """Why an estimate cannot be true; empty where it can."""
    tokens = estimate.memory.kv_tokens()
    if tokens < 8192:
        return f"KV cache of {tokens} tokens"
    if estimate.step_times.per_prefill_token_ms <= 0:
        return "prompts that take no time"
    if tp > 1 and estimate.memory.fixed_gib < LEAST_GIB:
        return f"{estimate.memory.fixed_gib:.1f} GiB on each GPU: too small to split further"
    step = dataclasses.asdict(estimate.step_times)
    if half is not None and step_ms(step) > 1.15 * step_ms(half["step"]):
        return f"a step of {step_ms(step):.3g} ms, on half the GPUs {step_ms(half['step']):.3g}"
    return ""


def step_ms(step: dict[str, float]) -> float:
    """Time of a step of 32 requests that hold 1024 tokens each."""
    requests, context = 32, 1024
    return (
        step["base_ms"]
        + step["per_request_ms"] * requests
        + step["per_sqrt_request_ms"] * requests**0.5
        + step["per_context_token_ms"] * requests * context
    )


def rounded(value: float) -> float:
    """Three digits: more than an estimate knows."""
    short = float(f"{value:.3g}")
    return int(short) if short.is_integer() else short


def dumped(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def render(estimates: dict[str, dict[str, Any]], calibrated: catalog_calibration.Calibrated) -> str:
    """The catalog as JSON, a model or a packed column a line; see `adapter.profiles.catalog`."""
    memories: dict[str, dict[str, dict[int, Any]]] = {}
    steps: dict[str, dict[str, dict[str, float]]] = {}
    gpus: dict[str, float] = {}
    for key, entry in estimates.items():
        model, precision, gpu, tp = key.split("|")
        gpus[gpu] = rounded(entry["memory"]["capacity_gib"])
        memories.setdefault(model, {}).setdefault(precision, {}).setdefault(
            int(tp), entry["memory"]
        )
        steps.setdefault(f"{model}|{precision}", {})[f"{gpu}|{tp}"] = entry["step"]
    models = {
        key: {
            "name": model.name,
            "weights": {
                name: _weights(memories.get(key, {}).get(name, {})) for name in model.weights
            },
            **_by_size(memories.get(key, {})),
            **({"aliases": list(model.aliases)} if model.aliases else {}),
        }
        for key, model in catalog_models.MODELS.items()
    }
    places = [f"{gpu}|{tp}" for gpu in gpus for tp in catalog_models.TPS]
    parts = {
        "generated_by": dumped(f"scripts/make_catalog.py with aiconfigurator-core {_version()}"),
        "gpus": dumped(gpus),
        "tp": dumped(catalog_models.TPS),
        "models": _table({key: dumped(model) for key, model in models.items()}),
        "calibration": dumped(calibrated.factors),
        "estimated": _table({
            key: dumped("".join(_packed_step(step_times.get(place)) for place in places))
            for key, step_times in steps.items()
        }),
        "measured": _table({
            key: dumped(packing.packed([rounded(value) for value in values]))
            for key, values in calibrated.measured.items()
        }),
    }  # fmt: skip
    return "{\n" + ",\n".join(f"{dumped(name)}:{part}" for name, part in parts.items()) + "\n}\n"


def _version() -> str:
    """The installed release of aiconfigurator-core, or the pinned one, which made the estimates."""
    try:
        return aiconfigurator.version()
    except aiconfigurator.UnavailableError:
        pins = (ROOT / "pyproject.toml").read_text().split("aiconfigurator-core==")
        return pins[1].partition(";")[0].partition('"')[0].strip()


def _weights(by_tp: dict[int, Any]) -> list[float]:
    """Memory that replicas split, and that each of their GPUs has besides, GiB; empty without estimates."""
    if not by_tp:
        return []
    fixed = [memory["fixed_gib"] for memory in by_tp.values()]
    if len(by_tp) == 1:
        (tp,) = by_tp
        return [rounded((fixed[0] - RUNTIME_GIB) * tp), RUNTIME_GIB]
    shares = [[1.0 / tp, 1.0] for tp in by_tp]
    split, besides = np.linalg.lstsq(np.array(shares), np.array(fixed), rcond=None)[0]
    return [round(float(split), 1), round(float(besides), 2)]


def _by_size(by_precision: dict[str, dict[int, Any]]) -> dict[str, list[float]]:
    """Activations and bytes of a token in the cache by replica size: the same for all GPUs and precisions."""
    columns: dict[str, list[float]] = {"activations_gib": [], "kv_bytes_per_token": []}
    for tp in catalog_models.TPS:
        memory = next((by_tp[tp] for by_tp in by_precision.values() if tp in by_tp), None)
        for name, values in columns.items():
            values.append(0 if memory is None else rounded(memory[name]))
    return columns


def _packed_step(step: dict[str, float] | None) -> str:
    if step is None:
        return packing.ABSENT
    return packing.packed([
        step["base_ms"], step["per_request_ms"], step["per_sqrt_request_ms"],
        step["per_prefill_token_ms"], step["per_context_token_ms"],
    ])  # fmt: skip


def _table(entries: dict[str, str]) -> str:
    return "{\n" + ",\n".join(f"{dumped(key)}:{text}" for key, text in entries.items()) + "\n}"


if __name__ == "__main__":
    main()
