"""Models and GPUs of the catalog, and the queries to aiconfigurator-core about each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapter.profiles import names
from adapter.profiles.aiconfigurator import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One precision of a model's weights.

    Attributes:
        source: name that aiconfigurator-core bundles, or key of GEOMETRIES.
        gemm: precision that overrides that of the configuration.
        experts: precision of the experts that does.

    """

    source: str
    gemm: str | None = None
    experts: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as its users name it.

    Attributes:
        name: name on Hugging Face.
        weights: by precision; the first is what the name alone means.
        aliases: other names of the same geometry, normalized.
        experts: it is a mixture of experts.

    """

    name: str
    weights: dict[str, Weights]
    aliases: tuple[str, ...] = ()
    experts: bool = False


@dataclass(frozen=True, slots=True)
class Geometry:
    """A decoder of the Llama or Qwen form whose configuration the package does not bundle."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    head_dim: int = 128
    architecture: str = "LlamaForCausalLM"

    def write(self, folder: Path) -> Path:
        """Write `config.json` as Hugging Face has it; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "architectures": [self.architecture],
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "head_dim": self.head_dim,
            "max_position_embeddings": 32768,
            "torch_dtype": "bfloat16",
        }
        (folder / "config.json").write_text(json.dumps(config))
        return folder


_QWEN2, _QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"
GEOMETRIES = {
    "llama-3.2-1b": Geometry(2048, 16, 32, 8, 8192, 128256, head_dim=64),
    "llama-3.2-3b": Geometry(3072, 28, 24, 8, 8192, 128256),
    "qwen2.5-7b": Geometry(3584, 28, 28, 4, 18944, 152064, architecture=_QWEN2),
    "qwen2.5-14b": Geometry(5120, 48, 40, 8, 13824, 152064, architecture=_QWEN2),
    "qwen2.5-32b": Geometry(5120, 64, 40, 8, 27648, 152064, architecture=_QWEN2),
    "qwen2.5-72b": Geometry(8192, 80, 64, 8, 29568, 152064, architecture=_QWEN2),
    "qwen3-4b": Geometry(2560, 36, 32, 8, 9728, 151936, architecture=_QWEN3),
    "qwen3-14b": Geometry(5120, 40, 40, 8, 17408, 151936, architecture=_QWEN3),
    "mistral-7b": Geometry(4096, 32, 32, 8, 14336, 32768),
    "mistral-small-24b": Geometry(5120, 40, 32, 8, 32768, 131072),
}


def dense(name: str, source: str, *aliases: str, first: str = "bf16") -> Model:
    """A model whose weights run as they are or, per tensor, in 8 bits."""
    weights = {"bf16": Weights(source=source), "fp8": Weights(source=source, gemm="fp8")}
    return Model(name=name, weights={first: weights[first], **weights}, aliases=aliases)


def mixture(name: str, *aliases: str, **sources: str | Weights) -> Model:
    """A mixture of experts, with its checkpoint of each precision."""
    weights = {
        precision: source if isinstance(source, Weights) else Weights(source=source)
        for precision, source in sources.items()
    }
    return Model(name=name, weights=weights, aliases=aliases, experts=True)


def block(source: str) -> Weights:
    """Weights quantized to FP8 in blocks.

    The tables of vLLM's kernels for them hold a fallback many times slower than what servers do, so that
    the kernel of per-tensor FP8 stands in; the experts keep theirs.
    """
    return Weights(source=source, gemm="fp8")


_LLAMA_70B = dense(
    "meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B",
    "llama-3-70b", "llama-3.3-70b", "deepseek-r1-distill-llama-70b",
)  # fmt: skip
MODELS: dict[str, Model] = {
    "llama-3.2-1b": dense("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"),
    "llama-3.2-3b": dense("meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b"),
    "llama-3.1-8b": dense(
        "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B",
        "llama-3-8b", "deepseek-r1-distill-llama-8b",
    ),
    "llama-3.1-70b": Model(
        name=_LLAMA_70B.name,
        aliases=_LLAMA_70B.aliases,
        weights={
            "bf16": _LLAMA_70B.weights["bf16"],
            "fp8": Weights(source="nvidia/Llama-3.1-70B-Instruct-FP8"),
            "fp4": Weights(source="meta-llama/Meta-Llama-3.1-70B", gemm="nvfp4"),
        },
    ),
    "llama-3.1-405b": dense(
        "meta-llama/Llama-3.1-405B-Instruct", "meta-llama/Meta-Llama-3.1-405B", first="fp8"
    ),
    "llama-4-scout": mixture(
        "meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout-17b-16e",
        bf16="meta-llama/Llama-4-Scout-17B-16E-Instruct",
    ),
    "qwen2.5-7b": dense(
        "Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b",
        "qwen2.5-coder-7b", "qwen2-7b", "deepseek-r1-distill-qwen-7b",
    ),
    "qwen2.5-14b": dense(
        "Qwen/Qwen2.5-14B-Instruct", "qwen2.5-14b", "qwen2.5-coder-14b", "deepseek-r1-distill-qwen-14b"
    ),
    "qwen2.5-32b": dense(
        "Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b",
        "qwen2.5-coder-32b", "qwq-32b", "deepseek-r1-distill-qwen-32b",
    ),
    "qwen2.5-72b": dense("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b", "qwen2-72b"),
    "qwen3-4b": dense("Qwen/Qwen3-4B", "qwen3-4b"),
    "qwen3-8b": dense("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "deepseek-r1-0528-qwen3-8b"),
    "qwen3-14b": dense("Qwen/Qwen3-14B", "qwen3-14b"),
    "qwen3-32b": dense("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
    "qwen3-30b-a3b": mixture(
        "Qwen/Qwen3-30B-A3B", "qwen3-coder-30b-a3b",
        bf16="Qwen/Qwen3-30B-A3B", fp8=block("Qwen/Qwen3-30B-A3B-FP8"),
    ),
    "qwen3-235b-a22b": mixture(
        "Qwen/Qwen3-235B-A22B",
        bf16="Qwen/Qwen3-235B-A22B", fp8=block("Qwen/Qwen3-235B-A22B-FP8"),
        fp4="nvidia/Qwen3-235B-A22B-NVFP4",
    ),
    "qwen3.5-397b-a17b": mixture(
        "Qwen/Qwen3.5-397B-A17B",
        bf16="Qwen/Qwen3.5-397B-A17B",
        fp8=Weights(source="Qwen/Qwen3.5-397B-A17B", gemm="fp8", experts="fp8_block"),
        fp4="nvidia/Qwen3.5-397B-A17B-NVFP4",
    ),
    "mistral-7b": dense("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
    "mistral-small-24b": dense(
        "mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-24b",
        "mistral-small-3.1-24b", "mistral-small-3.2-24b",
    ),
    "mixtral-8x7b": mixture("mistralai/Mixtral-8x7B-Instruct-v0.1", bf16="mistralai/Mixtral-8x7B-v0.1"),
    "mixtral-8x22b": mixture(
        "mistralai/Mixtral-8x22B-Instruct-v0.1", bf16="mistralai/Mixtral-8x22B-v0.1"
    ),
    "deepseek-v3": mixture(
        "deepseek-ai/DeepSeek-V3", "deepseek-r1", "deepseek-v3.1", "deepseek-v3-0324",
        fp8=block("deepseek-ai/DeepSeek-V3"), fp4="nvidia/DeepSeek-V3.1-NVFP4",
    ),
    "gpt-oss-20b": mixture("openai/gpt-oss-20b", fp4="openai/gpt-oss-20b"),
    "gpt-oss-120b": mixture("openai/gpt-oss-120b", fp4="openai/gpt-oss-120b"),
    "gemma-4-26b-a4b": mixture("google/gemma-4-26B-A4B", bf16="google/gemma-4-26B-A4B"),
    "minimax-m2.5": mixture(
        "MiniMaxAI/MiniMax-M2.5",
        fp8=block("MiniMaxAI/MiniMax-M2.5"), fp4="nvidia/MiniMax-M2.5-NVFP4",
    ),
    "kimi-k2.5": mixture(
        "moonshotai/Kimi-K2.5", int4="moonshotai/Kimi-K2.5", fp4="nvidia/Kimi-K2.5-NVFP4"
    ),
    "glm-5": mixture("zai-org/GLM-5", fp8=block("zai-org/GLM-5-FP8"), fp4="nvidia/GLM-5-NVFP4"),
}  # fmt: skip

TPS = (1, 2, 4, 8)
OVER_PCIE = {"L40S", "RTX-PRO-6000"}
"""GPUs without NVLink: beyond two of them the estimates of the exchange between them are implausible."""
MOST_PCIE_TP = 2
MOST_GB200_TP = 4
"""GPUs of one GB200 node."""
NO_FP8 = {"A100-SXM"}
NO_FP4 = {"A100-SXM", "H100-SXM", "H200", "L40S"}
"""GPUs without tensor cores of that precision; gpt-oss (MXFP4, 16-bit arithmetic) runs on all."""


def bundled(source: str, models: tuple[str, ...], package: Path, folder: Path) -> str:
    """What to give as a query's model: a bundled name, or a folder with the configuration."""
    if source in models:
        return source
    if source in GEOMETRIES:
        return str(GEOMETRIES[source].write(folder / source))
    # Bundled as a file, but not in its list of names.
    config = package / "model_configs" / f"{source.replace('/', '--')}_config.json"
    target = folder / source.rsplit("/", 1)[-1]
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(config.read_text())
    return str(target)


def queries(
    models: tuple[str, ...], package: Path, folder: Path
) -> Iterator[tuple[str, str, str, Query]]:
    """Model key, precision, GPU and query of all that is worth asking."""
    for gpu, (system, _) in names.GPUS.items():
        most = MOST_PCIE_TP if gpu in OVER_PCIE else MOST_GB200_TP if gpu == "GB200" else max(TPS)
        for key, model in MODELS.items():
            for precision, weights in model.weights.items():
                if precision == "fp8" and gpu in NO_FP8:
                    continue
                if precision == "fp4" and gpu in NO_FP4 and not key.startswith("gpt-oss"):
                    continue
                for tp in (tp for tp in TPS if tp <= most):
                    yield key, precision, gpu, Query(
                        model=bundled(weights.source, models, package, folder),
                        system=system, backend="vllm", tp=tp, gemm=weights.gemm, experts=weights.experts,
                        experts_split=model.experts,
                    )  # fmt: skip
