"""Tokens that the KV cache of a replica holds, from the memory of one of its GPUs."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
ACTIVATIONS_AT = 8192
"""Tokens of a step that `Memory.activations_gib` is given for."""

KV_CACHE_BYTES = {"auto": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
"""Bytes of one number in the KV cache, by the engine's `--kv-cache-dtype`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one GPU of a replica.

    Attributes:
        capacity_gib: memory of the GPU.
        fixed_gib: weights, runtime and communication buffers.
        activations_gib: activations of a step of 8192 tokens.
        kv_bytes_per_token: size of a token in a KV cache of 16 bits, which `auto` means to vLLM for FP8
            checkpoints too.

    """

    capacity_gib: float
    fixed_gib: float
    activations_gib: float
    kv_bytes_per_token: float

    def kv_tokens(
        self,
        *,
        utilization: float = 0.9,
        max_num_batched_tokens: int = ACTIVATIONS_AT,
        kv_bytes: int = 2,
    ) -> int:
        """Tokens that fit; 0 or less where the memory is too small, by how much too small.

        Args:
            utilization: share of the GPU's memory that the engine may take.
            max_num_batched_tokens: most tokens of a step.
            kv_bytes: bytes of one number in the KV cache: 2, or 1 of an FP8 cache.

        """
        activations = self.activations_gib * max_num_batched_tokens / ACTIVATIONS_AT
        free = self.capacity_gib * utilization - self.fixed_gib - activations
        return int(free * GIB / (self.kv_bytes_per_token * kv_bytes / 2))
