"""The profile of a model on a GPU with an engine's settings, or an error that says what to ask instead."""

from __future__ import annotations

from dataclasses import dataclass

from adapter.errors import InputError
from adapter.profiles import catalog, names
from adapter.profiles.catalog import Model, Source
from adapter.profiles.memory import KV_CACHE_BYTES, Memory
from analyzer.step_times import EngineLimits, StepTimes

_PATHS = ("/", "./", "../", "~", "file:")
"""Beginnings of paths to weights, which no name on Hugging Face has."""


class UnknownModelError(InputError):
    """The model is neither in the catalog nor known to aiconfigurator-core."""


class UnknownGpuError(InputError):
    """The GPU is not in the catalog, or has no entry of this model."""


class UnknownReplicaSizeError(InputError):
    """The model and GPU are in the catalog, but not with that many GPUs of a replica."""


class MemoryTooSmallError(InputError):
    """Weights, or one request, do not fit the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """Request for a profile: names as the user wrote them, settings as the engine's flags.

    Attributes:
        model: name on Hugging Face.
        gpu: name, alias or node label.
        tp: GPUs of a replica.
        engine: `vllm` or `sglang`.
        kv_cache_dtype: key of KV_CACHE_BYTES.
        gpu_memory_utilization: share of the GPU's memory, above 0 and at most 1.
        max_num_seqs: most requests in service.
        max_num_batched_tokens: most tokens of a step.
        max_model_len: longest request in tokens; None where it is not given.

    """

    model: str
    gpu: str
    tp: int = 1
    engine: str = "vllm"
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """A profile, and where it comes from.

    Attributes:
        request: what was asked for.
        model: name of the model on Hugging Face.
        precision: precision of the weights.
        gpu: name of the GPU.
        step_times: calibrated.
        limits: limits of the engine, with its KV cache.
        source: `measured`, `estimated` or `aiconfigurator`.
        described: sentence on the source.
        error: mean relative error expected of ITL.
        rows: measured rows behind step_times.

    """

    request: ProfileRequest
    model: str
    precision: str
    gpu: str
    step_times: StepTimes
    limits: EngineLimits
    source: str
    described: str
    error: float
    rows: int

    def requests_held(self, input_tokens: int, output_tokens: int) -> int:
        """Requests that the KV cache holds at once, half of whose output is there on average."""
        return int((self.limits.kv_tokens or 0) / (input_tokens + output_tokens / 2))

    def batch(self, input_tokens: int, output_tokens: int) -> int:
        """Requests in service at most: those, or as many as the engine takes."""
        return min(self.requests_held(input_tokens, output_tokens), self.limits.max_num_seqs)

    def itl_ms(self, requests: int, input_tokens: int, output_tokens: int) -> float:
        """Mean inter-token latency with that many requests in service, each replaced when it ends."""
        times = self.step_times
        return float(
            times.base_ms
            + times.per_request_ms * requests
            + times.per_sqrt_request_ms * requests**0.5
            + times.per_context_token_ms * requests * (input_tokens + output_tokens / 2)
            + times.per_prefill_token_ms * (requests - 1) * input_tokens / output_tokens
        )


def find(request: ProfileRequest) -> ModelProfile:
    """Find a profile in the catalog, else by aiconfigurator-core where it is installed.

    Raises:
        UnknownModelError: neither knows the model.
        UnknownGpuError: the GPU is not known, or has no entry of this model.
        UnknownReplicaSizeError: there is no entry for so many GPUs.
        MemoryTooSmallError: the weights do not fit, or the longest request does not.

    """
    entry = catalog.lookup(request.model, request.gpu, request.tp, request.engine)
    if entry is None:
        return _estimated(request)
    if entry.source is Source.MEASURED:
        described = (
            f"measured: fitted to {entry.rows} rows of a server with these weights, GPUs and engine"
        )
    else:
        described = (
            "estimated from kernel times; the error is that of such estimates on measured servers"
        )
    return ModelProfile(
        request=request, model=entry.model, precision=entry.precision, gpu=entry.gpu,
        step_times=entry.step_times, limits=_limits(request, entry.memory, entry.gpu),
        source=str(entry.source), described=described, error=entry.error, rows=entry.rows,
    )  # fmt: skip


def _estimated(request: ProfileRequest) -> ModelProfile:
    """What aiconfigurator-core estimates now; where it cannot, what the catalog would have had."""
    # numpy and scipy, which a look-up in the catalog does not need.
    from adapter.profiles import aiconfigurator  # noqa: PLC0415

    match, gpu = catalog.find_model(request.model), names.gpu_key(request.gpu)
    if gpu is None:
        raise _unknown_gpu(request)
    if match is not None:
        _check_weights(request, *match, gpu)
    name = request.model
    try:
        known = {names.model_key(other): other for other in aiconfigurator.bundled_models()}
        name = known.get(names.model_key(request.model), request.model)
        query = aiconfigurator.query(name, names.GPUS[gpu][0], request.engine, request.tp)
        estimate = aiconfigurator.estimate(query)
    except aiconfigurator.UnavailableError as error:
        raise _not_in_catalog(request, match, gpu, str(error)) from error
    except aiconfigurator.NotEstimatedError as error:
        raise _not_in_catalog(request, match, gpu, str(error)) from error
    factors = catalog.factors(request.engine, bends=query.experts_split)
    package = f"aiconfigurator-core {aiconfigurator.version()}"
    return ModelProfile(
        request=request, model=name, precision=names.model_key(name)[1] or "as configured", gpu=gpu,
        step_times=factors.apply(estimate.step_times),
        limits=_limits(request, estimate.memory, gpu), source="aiconfigurator",
        described=f"{package}; the error is that of its estimates on measured servers",
        error=factors.error, rows=0,
    )  # fmt: skip


def _limits(request: ProfileRequest, memory: Memory, gpu: str) -> EngineLimits:
    tokens = memory.kv_tokens(
        utilization=request.gpu_memory_utilization,
        max_num_batched_tokens=request.max_num_batched_tokens,
        kv_bytes=KV_CACHE_BYTES[request.kv_cache_dtype],
    )
    fix = (
        "raise --tp or --gpu-memory-utilization, lower --max-num-batched-tokens,"
        " take a --gpu with more memory or weights of a smaller precision"
    )
    if tokens < 1:
        raise MemoryTooSmallError(
            f"--gpu-memory-utilization {request.gpu_memory_utilization:g}:"
            f" {memory.fixed_gib:.0f} GiB of weights and buffers leave no KV cache"
            f" in {memory.capacity_gib:.0f} GiB of each {gpu}; {fix}"
        )
    if request.max_model_len is not None and request.max_model_len > tokens:
        raise MemoryTooSmallError(
            f"--max-model-len {request.max_model_len}: one request of that length exceeds the KV cache of"
            f" {tokens} tokens; lower it, set --kv-cache-dtype fp8, or {fix}"
        )
    return EngineLimits(
        max_num_seqs=request.max_num_seqs,
        max_num_batched_tokens=request.max_num_batched_tokens,
        kv_tokens=tokens,
    )


def _check_weights(request: ProfileRequest, model: Model, precision: str, gpu: str) -> None:
    """Refuse what is not in the catalog because the weights leave nothing of the memory."""
    weights = catalog.weights_gib(model, precision)
    if weights is None:
        return
    each = weights / request.tp + catalog.RUNTIME_GIB
    if each > request.gpu_memory_utilization * catalog.gpu_memory_gib(gpu):
        sizes = tuple(tp for tp in catalog.tps(model, precision, gpu) if tp > request.tp)
        larger = f"use --tp {_listed(sizes)}, or " if sizes else "use "
        raise MemoryTooSmallError(
            f"--tp {request.tp}: {weights:.0f} GiB of weights of {model.name} ({precision}) do not fit"
            f" {request.tp} x {gpu} of {catalog.gpu_memory_gib(gpu):.0f} GiB;"
            f" {larger}a --gpu with more memory"
        )


def _not_in_catalog(
    request: ProfileRequest, match: tuple[Model, str] | None, gpu: str, why: str
) -> InputError:
    if match is None and request.model.startswith(_PATHS):
        return UnknownModelError(
            f"MODEL {request.model}: is a path, and its last part names no model of the catalog; give the"
            f" model's name on Hugging Face, such as {_model_names()[0]}, or measure it and use"
            " `variant-adapter fit`"
        )
    if match is None:
        near = catalog.nearest_models(request.model)
        offer = f"nearest: {', '.join(near)}" if near else f"it has {', '.join(_model_names())}"
        return UnknownModelError(f"MODEL {request.model}: not in the catalog ({offer}); {why}")
    model, precision = match
    if precision not in model.precisions:
        return UnknownModelError(
            f"MODEL {request.model}: the catalog has {model.name} in {_listed(model.precisions)},"
            f" not in {precision}; {why}"
        )
    sizes = catalog.tps(model, precision, gpu)
    if sizes:
        return UnknownReplicaSizeError(
            f"--tp {request.tp}: the catalog has {model.name} ({precision}) on {gpu} with --tp"
            f" {_listed(sizes)}; {why}"
        )
    others = catalog.gpus(model, precision)
    return UnknownGpuError(
        f"--gpu {request.gpu}: the catalog has {model.name} ({precision}) on"
        f" {_listed(others) or 'no GPU'}, not on {gpu}: too small, without arithmetic of this precision,"
        f" or not estimated; {why}"
    )


def _unknown_gpu(request: ProfileRequest) -> UnknownGpuError:
    near = names.nearest_gpus(request.gpu)
    offer = f"nearest: {', '.join(near)}. It has" if near else "it has"
    return UnknownGpuError(
        f"--gpu {request.gpu}: not a GPU of the catalog; {offer} {', '.join(names.GPUS)};"
        " for others measure and use `variant-adapter fit`"
    )


def _listed(values: tuple[object, ...]) -> str:
    words = [str(value) for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _model_names() -> tuple[str, ...]:
    return tuple(model.name for model in catalog.models())
