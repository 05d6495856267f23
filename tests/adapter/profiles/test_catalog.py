"""The catalog: names find entries, measured entries predict their rows, estimates are physically possible."""

from __future__ import annotations

import itertools
import math
from importlib import resources

import numpy as np
import pytest

from adapter.profiles import catalog, finder, names, packing
from adapter.profiles.catalog import CatalogEntry, Source
from tests.adapter.profiles import measured

GROUPS = [
    ("vllm", "Qwen/Qwen3-32B", "h100_sxm", "", 2, "H100"),
    ("vllm", "Qwen/Qwen3-32B", "h100_sxm", "", 4, "H100"),
    ("vllm", "meta-llama/Llama-3.1-70B", "h100_sxm", "fp8", 2, "H100"),
    ("vllm", "meta-llama/Llama-3.1-70B", "h200_sxm", "fp8", 8, "H200"),
    ("vllm", "meta-llama/Llama-3.1-70B", "b200_sxm", "fp4", 1, "B200"),
    ("vllm", "MiniMaxAI/MiniMax-M2.5", "h200_sxm", "fp8", 4, "H200"),
    ("sglang", "Qwen/Qwen3-235B-A22B-FP8", "h200_sxm", "fp8", 2, "H200"),
]


def entries() -> list[CatalogEntry]:
    return [
        entry
        for model, gpu, tp in itertools.product(catalog.models(), names.GPUS, (1, 2, 4, 8))
        for precision in model.precisions
        if (entry := catalog.lookup(f"{model.name}-{precision}", gpu, tp)) is not None
    ]


@pytest.mark.parametrize(("backend", "model", "system", "precision", "tp", "gpu"), GROUPS)
def test_measured_entries_predict_their_rows(
    *, backend: str, model: str, system: str, precision: str, tp: int, gpu: str
) -> None:
    """ITL of a measured group is within the error that its entry states."""
    rows = measured.unsaturated(backend, model, system, precision, tp)
    entry = catalog.lookup(f"{model}-{precision}" if precision else model, gpu, tp, backend)
    assert entry is not None
    assert (entry.source, entry.rows) == (Source.MEASURED, rows.size)
    times = entry.step_times
    n = rows.concurrency
    predicted = (
        times.base_ms
        + times.per_request_ms * n
        + times.per_sqrt_request_ms * np.sqrt(n)
        + times.per_context_token_ms * n * rows.context_tokens
        + times.per_prefill_token_ms * (n - 1) * rows.input_tokens / rows.output_tokens
    )
    assert np.abs(predicted / rows.itl_ms - 1).mean() <= entry.error + 0.002


def test_estimates_err_as_stated() -> None:
    """The estimate of a model that was measured is off by no more than estimates of its kind are at worst."""
    raw = catalog._catalog()["estimated"]["qwen3-32b|bf16|H100-SXM|2"]
    times = catalog.factors("vllm", bends=False).apply(catalog._step_times(raw))
    rows = measured.unsaturated("vllm", "Qwen/Qwen3-32B", "h100_sxm", "", 2)
    predicted = (
        times.base_ms
        + times.per_request_ms * rows.concurrency
        + times.per_context_token_ms * rows.concurrency * rows.context_tokens
        + times.per_prefill_token_ms
        * (rows.concurrency - 1)
        * rows.input_tokens
        / rows.output_tokens
    )
    assert np.abs(predicted / rows.itl_ms - 1).mean() < 0.1
    assert 0.05 < catalog.factors("vllm", bends=False).error < 0.1


def test_every_entry_is_possible() -> None:
    """Steps take time, prompts take time, the KV cache holds a request, and all is finite."""
    all_entries = entries()
    assert len(all_entries) > 700
    for entry in all_entries:
        times = entry.step_times
        values = (
            times.base_ms,
            times.per_request_ms,
            times.per_prefill_token_ms,
            times.per_context_token_ms,
            times.per_sqrt_request_ms,
        )
        assert all(math.isfinite(value) and value >= 0 for value in values), entry
        assert min(times.base_ms, times.per_prefill_token_ms, entry.error) > 0, entry
        assert entry.memory.kv_tokens() >= 8000, entry


def test_nobody_runs_70b_on_pcie_cards() -> None:
    """Replicas over more PCIe cards than the estimates can be believed for are not there."""
    assert catalog.lookup("meta-llama/Llama-3.1-70B-Instruct", "L40S", 8) is None
    assert catalog.lookup("meta-llama/Llama-3.1-8B-Instruct", "L40S", 1) is not None


@pytest.mark.parametrize(
    ("name", "model", "precision"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "bf16"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b", "bf16"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "llama-3.1-8b", "fp8"),
        ("LLAMA-3.3-70B-INSTRUCT", "llama-3.1-70b", "bf16"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3", "fp8"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.1-70b", "bf16"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", "bf16"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", "qwen3-235b-a22b", "fp8"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "fp4"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", "bf16"),
        ("Qwen/Qwen3-32B-AWQ", "qwen3-32b", "int4"),
        ("Qwen3_235B_A22B_FP8", "qwen3-235b-a22b", "fp8"),
    ],
)
def test_names_of_models(name: str, model: str, precision: str) -> None:
    """Organization, case, underscores, tuning and release do not matter; the precision does."""
    named = catalog.find_model(name)
    assert named is not None
    assert (named[0].key, named[1]) == (model, precision)


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("H100", "H100-SXM"),
        ("h100-sxm", "H100-SXM"),
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA-A100-SXM4-80GB", "A100-SXM"),
        ("NVIDIA-A100-SXM4-40GB", None),
        ("NVIDIA-H100-PCIe", None),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", None),
    ],
)
def test_names_of_gpus(name: str, gpu: str | None) -> None:
    """Labels of nodes name GPUs; other memory, other links and slices are not the same GPU."""
    assert names.gpu_key(name) == gpu


def test_an_auto_kv_cache_has_16_bits() -> None:
    """FP8 weights do not make an FP8 cache; asking for one doubles the tokens."""
    fp8 = catalog.lookup("Qwen/Qwen3-32B-FP8", "H100", 2)
    bf16 = catalog.lookup("Qwen/Qwen3-32B", "H100", 2)
    assert fp8 is not None
    assert bf16 is not None
    assert fp8.memory.kv_bytes_per_token == bf16.memory.kv_bytes_per_token
    assert fp8.memory.kv_tokens() > bf16.memory.kv_tokens()
    assert bf16.memory.kv_tokens(kv_bytes=1) == pytest.approx(2 * bf16.memory.kv_tokens(), abs=1)


def test_published_sizes_of_the_kv_cache() -> None:
    """Tokens at 0.9 of the memory are those of the check points."""
    for model, tp, tokens in (
        ("Llama-3.1-8B", 1, 433e3),
        ("Qwen3-32B", 2, 302e3),
        ("Llama-3.1-70B", 4, 454e3),
    ):
        entry = catalog.lookup(model, "H100", tp)
        assert entry is not None
        assert entry.memory.kv_tokens() == pytest.approx(tokens, rel=0.02)


def test_what_is_not_there_is_none() -> None:
    """Unknown names, engines and sizes are no error of the look-up."""
    for query in (
        ("nobody/nothing", "H100", 1, "vllm"),
        ("Qwen/Qwen3-32B", "TPU", 1, "vllm"),
        ("Qwen/Qwen3-32B", "H100", 3, "vllm"),
        ("Qwen/Qwen3-32B-AWQ", "H100", 1, "vllm"),
        ("Qwen/Qwen3-32B", "H100", 2, "trtllm"),
    ):
        assert catalog.lookup(*query) is None


def test_a_model_of_the_catalog_is_the_nearest_to_itself_misspelled() -> None:
    """The first offer for a slip of the keyboard is what was meant."""
    assert catalog.nearest_models("Qwen/Qwen3-32")[0] == "Qwen/Qwen3-32B"
    assert catalog.nearest_models("meta/lama-3.1-8b")[0] == "meta-llama/Llama-3.1-8B-Instruct"
    assert names.nearest_gpus("H100-SMX")[0] == "H100-SXM"


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("Qwen/Qwen3-235B", "Qwen/Qwen3-235B-A22B"),
        ("Qwen235B", "Qwen/Qwen3-235B-A22B"),
        ("Qwen3-30B", "Qwen/Qwen3-30B-A3B"),
        ("mixtral-8x22", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    ],
)
def test_the_nearest_model_has_the_same_number_of_parameters(name: str, first: str) -> None:
    """However much shorter or longer the names are."""
    assert catalog.nearest_models(name)[0] == first


def test_kv_cache_binds_before_the_batch() -> None:
    """A profile's batch is what the KV cache holds where that is fewer than the engine takes."""
    profile = finder.find(finder.ProfileRequest(model="Qwen/Qwen3-32B", gpu="H100", tp=2))
    assert profile.requests_held(2048, 256) == int((profile.limits.kv_tokens or 0) / 2176)
    assert profile.batch(2048, 256) == profile.requests_held(2048, 256)
    assert profile.batch(512, 128) == 256


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("H100", "H100-SXM"),
        ("h100-sxm-80gb", "H100-SXM"),
        ("H100SXM5", "H100-SXM"),
        ("H100-80GB-SXM5", "H100-SXM"),
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "H100-SXM"),
        ("nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3", "H100-SXM"),
        ("8x H100", "H100-SXM"),
        ("a100-80gb-sxm", "A100-SXM"),
        ("H200-SXM-141GB", "H200"),
        ("H100-PCIe", None),
        ("h100-nvl", None),
        ("NVIDIA-A100-SXM4-40GB", None),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", None),
        ("L40", None),
    ],
)
def test_gpus_as_people_and_labels_write_them(name: str, gpu: str | None) -> None:
    """Words in any order; another form factor, memory or a slice of a GPU is another GPU."""
    assert names.gpu_key(name) == gpu


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 8B", "llama3.1-8b", "Llama-3.1-8B-Instruct:latest",
        "/models/llama-3_1-8b/", "Meta-Llama-3.1-8B-Instruct",
    ],
)  # fmt: skip
def test_models_as_people_write_them(name: str) -> None:
    """Organization, case, spaces, tags and dashes do not matter."""
    named = catalog.find_model(name)
    assert named is not None
    assert (named[0].key, named[1]) == ("llama-3.1-8b", "bf16")


def test_packed_numbers_come_back() -> None:
    """Within 0.15 % over ten decades, zeros exactly, entries that are not there as None."""
    values = [1.234e-7, 5.6e-5, 0.0, 0.0432, 987.0]
    text = packing.packed(values) + packing.ABSENT + packing.packed([1.0] * 5)
    first, absent, last = packing.unpacked(text, 5)
    assert first == pytest.approx(values, rel=0.0016)
    assert absent is None
    assert last == pytest.approx([1.0] * 5, rel=0.0016)
    with pytest.raises(ValueError, match="2000: must be from 1e-7 to 1e3"):
        packing.packed([2000.0])


def test_the_catalog_is_small() -> None:
    """The whole file stays under 20 kB."""
    text = resources.files("adapter.profiles").joinpath("catalog.json").read_text(encoding="utf-8")
    assert len(text) < 20_000
