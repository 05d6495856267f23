"""`variant-adapter profile`: estimated performance profile of a model on a GPU."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from adapter.commands import flags
from adapter.logs import printable
from adapter.profiles import catalog, memory

if TYPE_CHECKING:
    from adapter.profiles.finder import ModelProfile

_SHOWN_LENGTHS = ((512, 128), (2048, 256), (8192, 512))


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Prints a profile for spec.modelProfile of a VariantAutoscaling, with its source and expected error:"
        " from the catalog (step times fitted to measured servers, or estimated and calibrated on them), or"
        " else from aiconfigurator-core, where the extra `profile` is installed."
        " For a profile of your own servers, run a benchmark and use `variant-adapter fit`."
    )
    command.add_argument(
        "model",
        type=flags.not_empty,
        metavar="MODEL",
        help="Model name as on Hugging Face, such as Qwen/Qwen3-32B-FP8. Required",
    )
    command.add_argument(
        "--gpu",
        type=flags.not_empty,
        required=True,
        metavar="NAME",
        help="GPU, such as H100-SXM, or a node's nvidia.com/gpu.product label. Required",
    )
    command.add_argument(
        "--tp",
        type=positive,
        default=1,
        metavar="N",
        help="GPUs of a replica (tensor parallelism). Default 1",
    )
    _add_engine(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--output",
        **flags.choice("yaml", "json"),
        default="yaml",
        help="Output format. Default yaml",
    )
    form.add_argument(
        "--json",
        dest="output",
        action="store_const",
        const="json",
        help="Print JSON instead of YAML, as --output json",
    )
    command.set_defaults(run=run)


def _add_engine(command: argparse.ArgumentParser) -> None:
    """Flags of the inference engine."""
    command.add_argument(
        "--engine",
        **flags.choice(*catalog.ENGINES),
        default="vllm",
        help="Inference engine. Default vllm",
    )
    command.add_argument(
        "--kv-cache-dtype",
        **flags.choice(*memory.KV_CACHE_BYTES),
        default="auto",
        help="Precision of the KV cache, as the engine's flag of that name. Default auto: 16 bits",
    )
    command.add_argument(
        "--gpu-memory-utilization",
        type=share,
        default=0.9,
        metavar="SHARE",
        help="Share of the GPU's memory that the engine may use, above 0 and at most 1. Default 0.9",
    )
    command.add_argument(
        "--max-num-seqs",
        type=positive,
        default=256,
        metavar="N",
        help="Most requests in service. Default 256",
    )
    command.add_argument(
        "--max-num-batched-tokens",
        type=positive,
        default=8192,
        metavar="N",
        help="Most tokens that one step computes. Default 8192",
    )
    command.add_argument(
        "--max-model-len",
        type=positive,
        metavar="N",
        help="Longest request in tokens that the KV cache must hold. Default none",
    )


def run(args: argparse.Namespace) -> int:
    """Look the profile up and print it."""
    # numpy and scipy, which `--help` does not need.
    from adapter.profiles import finder  # noqa: PLC0415

    profile = finder.find(
        finder.ProfileRequest(
            model=args.model,
            gpu=args.gpu,
            tp=args.tp,
            engine=args.engine,
            kv_cache_dtype=args.kv_cache_dtype,
            gpu_memory_utilization=args.gpu_memory_utilization,
            max_num_seqs=args.max_num_seqs,
            max_num_batched_tokens=args.max_num_batched_tokens,
            max_model_len=args.max_model_len,
        )
    )
    if args.output == "json":
        print(json.dumps(_document(profile)))
    else:
        import yaml  # noqa: PLC0415 - as above

        for line in _comments(profile):
            print(printable(f"# {line}"))
        print(yaml.safe_dump({"accelerators": [accelerator(profile)]}, sort_keys=False), end="")
    return 0


def positive(text: str) -> int:
    """A whole number >= 1 for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number above 0 and at most 1, or a percentage, for argparse."""
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(
            f"must be above 0 and at most 1, such as 0.9 or 90%, not {text!r}"
        )
    return value


def accelerator(profile: ModelProfile) -> dict[str, Any]:
    """The entry of `spec.modelProfile.accelerators`."""
    times = profile.step_times
    step = {
        "base": times.base_ms,
        "perRequest": times.per_request_ms,
        "perPrefillToken": times.per_prefill_token_ms,
        "perContextToken": times.per_context_token_ms,
    }
    if times.per_sqrt_request_ms > 0:
        step["perSqrtRequest"] = times.per_sqrt_request_ms
    return {
        "acc": profile.request.gpu,
        "accCount": profile.request.tp,
        "perfParms": {"stepParms": {name: f"{value:.4g}" for name, value in step.items()}},
        "engine": {
            "maxNumSeqs": profile.limits.max_num_seqs,
            "maxNumBatchedTokens": profile.limits.max_num_batched_tokens,
            "kvTokens": profile.limits.kv_tokens,
        },
    }


def _document(profile: ModelProfile) -> dict[str, Any]:
    return {
        "model": profile.model,
        "precision": profile.precision,
        "engine": profile.request.engine,
        "source": profile.source,
        "error_percent": round(100 * profile.error, 1),
        "measured_rows": profile.rows,
        "accelerators": [accelerator(profile)],
        "implied": [
            {
                "input_tokens": prompt,
                "output_tokens": output,
                "requests_in_kv_cache": profile.requests_held(prompt, output),
                "requests": profile.batch(prompt, output),
                "itl_ms_one_request": round(profile.itl_ms(1, prompt, output), 3),
                "itl_ms": round(profile.itl_ms(profile.batch(prompt, output), prompt, output), 3),
            }
            for prompt, output in _SHOWN_LENGTHS
            if profile.requests_held(prompt, output) >= 1
        ],
    }


def _comments(profile: ModelProfile) -> Iterator[str]:
    request = profile.request
    yield (
        f"{profile.model} ({profile.precision} weights) on {request.tp} x {profile.gpu}, {request.engine}"
    )
    yield f"source: {profile.described}"
    yield (
        f"expected error: ITL {100 * profile.error:.0f} % on average; memory is estimated:"
        " compare kvTokens with what the server logs when it starts"
    )
    for prompt, output in _SHOWN_LENGTHS:
        held, batch = profile.requests_held(prompt, output), profile.batch(prompt, output)
        if held < 1:
            yield f"requests of {prompt}/{output} tokens: the KV cache holds none"
            continue
        yield (
            f"requests of {prompt}/{output} tokens: the KV cache holds {held}; ITL"
            f" {profile.itl_ms(1, prompt, output):.3g} ms alone,"
            f" {profile.itl_ms(batch, prompt, output):.3g} ms with {batch} in service"
        )
