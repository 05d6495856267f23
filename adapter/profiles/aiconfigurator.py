"""Estimates of step times and memory by aiconfigurator-core, the only module that imports it.

It knows the times of kernels as measured on each GPU and adds them up for a model; no GPU is needed and
nothing is downloaded. It is an optional extra (`profile`). Its estimates are raw: what it
leaves out (scheduling, sampling, launch gaps) is added by `calibration`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import nnls

from adapter.errors import InputError
from adapter.profiles.memory import GIB, Memory
from analyzer.step_times import StepTimes

EXTRA = ".[profile]"
"""What to install in a clone where the package is absent."""

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (256, 1024, 4096, 16384)
_PROMPTS = (512, 1024, 2048, 4096)
_MOST_TOKENS = 2**21
"""Most tokens of context in one decode step; more than the memory of any of these replicas holds."""

_LEAST_BASE = 0.3
"""Least time of a step whatever it does, as a share of the shortest decode step."""
_MOST_OVER_BANDWIDTH = 1.5
"""Most time per token of context, in multiples of reading it at the full bandwidth of the memory."""
_WIDER_CACHE = 2.2
"""Most that a KV cache of 16 bits can cost over one of 8, with a margin."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Fields of a configuration that count a layer's experts."""


class UnavailableError(InputError):
    """aiconfigurator-core is not installed."""


class NotEstimatedError(InputError):
    """aiconfigurator-core is installed, but has no data for this model, GPU and engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to estimate, in aiconfigurator's names.

    Attributes:
        model: name on Hugging Face that the package bundles, or a directory with a `config.json`.
        system: GPU, such as `h100_sxm`.
        backend: engine: `vllm` or `sglang`.
        tp: GPUs of a replica; experts are split over them as all else is.
        gemm: precision of the weights; None as the checkpoint says.
        experts: precision of the experts' weights.
        experts_split: the model is a mixture of experts.

    """

    model: str
    system: str
    backend: str
    tp: int
    gemm: str | None = None
    experts: str | None = None
    experts_split: bool = False

    def options(self) -> dict[str, Any]:
        """Keyword arguments that both of its functions take."""
        return {
            "tp_size": self.tp,
            "moe_tp_size": self.tp if self.experts_split else None,
            "gemm_quant_mode": self.gemm,
            "moe_quant_mode": self.experts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A raw estimate.

    Attributes:
        step_times: fitted to its decode and prefill latencies.
        memory: memory of one GPU of the replica.
        fit_error: mean relative error of the form of step_times against its decode latencies.

    """

    step_times: StepTimes
    memory: Memory
    fit_error: float


def version() -> str:
    """Version of the installed package.

    Raises:
        UnavailableError: it is not installed.

    """
    _load()
    from importlib.metadata import version as installed  # noqa: PLC0415 - beside the load that it needs

    return installed("aiconfigurator-core")


def bundled_models() -> tuple[str, ...]:
    """Names on Hugging Face whose configuration the installed package has.

    Raises:
        UnavailableError: it is not installed.

    """
    return tuple(sorted(_load().common.DefaultHFModels))


def query(model: str, system: str, backend: str, tp: int) -> Query:
    """What to ask about a model as its configuration has it.

    Raises:
        UnavailableError: the package is not installed.
        NotEstimatedError: it has no configuration of the model.

    """
    config = _configuration(_load(), model)
    text = config.get("text_config", config)
    experts = max(int(text.get(name) or 0) for name in _EXPERTS)
    # In its tables of vLLM's kernels for weights quantized in blocks is a fallback many times too slow.
    blocks = backend == "vllm" and "weight_block_size" in config.get("quantization_config", {})
    return Query(
        model=model,
        system=system,
        backend=backend,
        tp=tp,
        gemm="fp8" if blocks else None,
        experts_split=experts > 1,
    )


def _configuration(package: _Package, model: str) -> dict[str, Any]:
    folder = Path(model)
    if folder.is_dir():
        path = folder / "config.json"
    else:
        root = Path(package.common.__file__).parents[1] / "model_configs"
        path = root / f"{model.replace('/', '--')}_config.json"
    try:
        configuration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotEstimatedError(f"aiconfigurator-core has no configuration of {model}") from error
    return configuration


def estimate(query: Query) -> Estimate:
    """Estimate one replica; the first call takes seconds, as the package loads its tables.

    Raises:
        UnavailableError: the package is not installed.
        NotEstimatedError: it has no data for the query.

    """
    package = _load()
    if query.model not in package.common.DefaultHFModels and not Path(query.model).is_dir():
        raise NotEstimatedError(f"aiconfigurator-core has no configuration of {query.model}")
    try:
        memory = _memory(package, query)
        step_times, fit_error = _estimated(package, query)
    except NotEstimatedError:
        raise
    except Exception as error:  # the package raises whatever its tables miss
        problem = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise NotEstimatedError(
            f"aiconfigurator-core has no estimate of {query.model} on {query.system} x {query.tp}"
            f" with {query.backend}: {problem}"
        ) from error
    most = (
        _MOST_OVER_BANDWIDTH * 1e3 * memory.kv_bytes_per_token / _bandwidth(package, query.system)
    )
    if step_times.per_context_token_ms > most:
        # A fallback of its tables, not a kernel that servers run (latent attention beside other weights).
        step_times = dataclasses.replace(step_times, per_context_token_ms=most)
    return Estimate(step_times=step_times, memory=memory, fit_error=fit_error)


def _bandwidth(package: _Package, system: str) -> float:
    """Bytes per second that one GPU reads of its memory."""
    path = Path(package.common.__file__).parents[1] / "systems" / f"{system}.yaml"
    return float(yaml.safe_load(path.read_text(encoding="utf-8"))["gpu"]["mem_bw"])


@dataclass(frozen=True, slots=True)
class _Package:
    common: Any
    engine: Any
    memory: Any


def _load() -> _Package:
    # Without this it would ask Hugging Face for configurations that it does not bundle.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from aiconfigurator_core.sdk import common, engine, memory  # noqa: PLC0415 - optional and slow
    except ImportError as error:
        raise UnavailableError(
            f"aiconfigurator-core is not installed; in a clone: pip install '{EXTRA}'"
            " (Linux x86-64, Python 3.11 to 3.13)"
        ) from error
    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
    return _Package(common, engine, memory)


def _estimated(package: _Package, query: Query) -> tuple[StepTimes, float]:
    """Step times with the KV cache in the 16 bits that `auto` means, where the tables of that can be true.

    Reading 16 bits costs at most twice as much per token as 8; a table that says more (as that of vLLM's
    latent attention does) is of a kernel that no server runs.
    """
    build = package.engine.EngineHandle.compile
    names = query.model, query.system, query.backend
    options = {"backend_version": "current", **query.options()}
    estimates = []
    for modes in ({"kvcache_quant_mode": "bfloat16", "fmha_quant_mode": "bfloat16"}, {}):
        try:
            handle = build(*names, **modes, **options)
            estimates.append(_step_times(handle, bends=query.experts_split))
        except Exception as error:
            # No kernel of 16 bits in its tables; without any the caller says so.
            if not modes:
                if not estimates:
                    raise
                logging.getLogger(__name__).debug("no estimate as configured: %s", error)
    least = min(times.per_context_token_ms for times, _ in estimates)
    return next(
        pair
        for pair in estimates
        if pair[0].per_context_token_ms <= _WIDER_CACHE * max(least, 1e-12)
    )


def _step_times(handle: Any, *, bends: bool) -> tuple[StepTimes, float]:
    points = [(n, c) for n in _BATCHES for c in _CONTEXTS if n * c <= _MOST_TOKENS]
    batch, context = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    took = np.array([handle.predict_decode_latency(n, c, 2) for n, c in points])
    bend = np.sqrt(batch) if bends else np.zeros_like(batch)
    design = np.column_stack([np.ones_like(batch), batch, bend, batch * context])
    if not (np.isfinite(took).all() and (took > 0).all()):
        raise NotEstimatedError("aiconfigurator-core estimates decode steps that take no time")
    # In relative terms: a small batch counts as much as a large one.
    values, _ = nnls(design / took[:, None], np.ones_like(took))
    least = _LEAST_BASE * float(took.min())
    if values[0] < least:
        # The other columns bend less than the tables; a step takes time whatever it does.
        values, _ = nnls(design / took[:, None], 1.0 - least / took)
        values[0] += least
    error = float(np.abs(design @ values / took - 1).mean())
    prefill = np.array([handle.predict_prefill_latency(1, tokens, 0) for tokens in _PROMPTS])
    line = np.column_stack([np.ones(len(_PROMPTS)), _PROMPTS])
    (_, per_token), _ = nnls(line / prefill[:, None], np.ones_like(prefill))
    base, request, sqrt, per_context = (float(value) for value in values)
    times = StepTimes(
        base_ms=base,
        per_request_ms=request,
        per_prefill_token_ms=float(per_token),
        per_context_token_ms=per_context,
        per_sqrt_request_ms=sqrt,
    )
    return times, error


def _memory(package: _Package, query: Query) -> Memory:
    # All of the memory: a share that the weights do not leave free would raise instead of telling.
    estimate = package.memory.estimate_kv_cache(
        query.model, query.system, query.backend, "current",
        max_num_tokens=8192, max_batch_size=256, memory_fraction_kind="of_total",
        memory_fraction_value=1.0, kvcache_quant_mode="bfloat16", **query.options(),
    )  # fmt: skip
    if estimate["source"] != "native":
        raise NotEstimatedError("aiconfigurator-core only guesses the memory of this model")
    parts = estimate["memory_breakdown"]
    fixed = parts["weights_bytes"] + parts["runtime_overhead_bytes"] + parts["comm_overhead_bytes"]
    # Not its bytes per token: layers with a sliding window stop growing, which the total accounts for.
    per_token = estimate["total_kv_size_bytes"] / estimate["total_kv_size_tokens"]
    return Memory(
        capacity_gib=estimate["total_gpu_capacity_bytes"] / GIB,
        fixed_gib=fixed / GIB,
        activations_gib=parts["activations_bytes"] / GIB,
        kv_bytes_per_token=per_token,
    )
