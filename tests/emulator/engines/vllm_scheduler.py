"""The real scheduler class of an installed vLLM, driven step by step in virtual time; nothing is computed.

Everything of vLLM is imported when it is asked for: the tests run without it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits, StepTimes


@dataclass(slots=True)
class Served:
    """One request's times in ms."""

    arrival_ms: float
    tokens_ms: list[float] = field(default_factory=list)
    preemptions: int = 0

    @property
    def longest_gap_ms(self) -> float:
        gaps = zip(self.tokens_ms, self.tokens_ms[1:], strict=False)
        return max((after - before for before, after in gaps), default=0.0)


class RealScheduler:
    """Serves requests of known lengths with vLLM's scheduler; every step takes what `times` says."""

    def __init__(self, times: StepTimes, limits: SchedulerLimits) -> None:
        self.times = times
        self.steps = 0
        self.at_ms = 0.0
        self.served: list[Served] = []
        self._scheduler = _scheduler(limits)

    def add(self, *, arrival_ms: float, input_tokens: int, output_tokens: int) -> None:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.v1.request import Request  # noqa: PLC0415

        number = len(self.served)
        self.served.append(Served(arrival_ms))
        params = SamplingParams(max_tokens=output_tokens, ignore_eos=True)
        self._scheduler.add_request(
            Request(
                request_id=str(number),
                prompt_token_ids=[1] * input_tokens,
                sampling_params=params,
                pooling_params=None,
            )
        )

    def step(self) -> list[int]:
        """Run one step; numbers of the requests that ended with it."""
        from vllm.v1.outputs import ModelRunnerOutput  # noqa: PLC0415

        scheduler = self._scheduler
        requests = scheduler.requests
        before = {name: (r.num_computed_tokens, r.num_preemptions) for name, r in requests.items()}
        output = scheduler.schedule()
        prefill = context = 0
        sampled: list[list[int]] = []
        chunks: dict[str, int] = output.num_scheduled_tokens
        for name, tokens in chunks.items():
            request = requests[name]
            missing = request.num_tokens - (request.num_computed_tokens - tokens)
            prefill += tokens if missing > 1 or not request.num_output_tokens else 0
            context += request.num_computed_tokens
            sampled.append([7] if tokens == missing else [])
        for name, (_, preemptions) in before.items():
            self.served[int(name)].preemptions += requests[name].num_preemptions - preemptions
        self.at_ms += self.times.step_ms(
            requests=len(chunks), prefill_tokens=prefill, context_tokens=context
        )
        self.steps += 1
        for name, token_ids in zip(chunks, sampled, strict=True):
            if token_ids:
                self.served[int(name)].tokens_ms.append(self.at_ms)
        scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=list(chunks),
                req_id_to_index={name: index for index, name in enumerate(chunks)},
                sampled_token_ids=sampled,
            ),
        )
        return sorted(int(name) for name in before if name not in scheduler.requests)

    @property
    def busy(self) -> bool:
        return bool(self._scheduler.get_num_unfinished_requests())

    def idle_until(self, at_ms: float) -> None:
        if not self.busy:
            self.at_ms = max(self.at_ms, at_ms)


def _scheduler(limits: SchedulerLimits) -> Any:
    """The scheduler of one full-attention KV group, without prefix caching."""
    import torch  # noqa: PLC0415
    from vllm.config import (  # noqa: PLC0415
        CacheConfig,
        DeviceConfig,
        SchedulerConfig,
        VllmConfig,
    )
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415
    from vllm.v1.kv_cache_interface import (  # noqa: PLC0415
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
    )
    from vllm.v1.structured_output import StructuredOutputManager  # noqa: PLC0415

    longest = limits.kv_blocks * BLOCK_TOKENS
    scheduler = SchedulerConfig(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=longest,
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
        async_scheduling=False,
        watermark=limits.watermark,
        scheduler_reserve_full_isl=limits.reserve_full_input,
    )
    cache = CacheConfig(block_size=BLOCK_TOKENS, enable_prefix_caching=False)
    cache.num_gpu_blocks = limits.kv_blocks + 1
    config = VllmConfig(
        model_config=_model(longest),
        scheduler_config=scheduler,
        cache_config=cache,
        device_config=DeviceConfig("cpu"),
    )
    spec = FullAttentionSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    return Scheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=limits.kv_blocks + 1,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
    )


def _model(longest: int) -> Any:
    """The configuration of a tiny model that nobody loads."""
    from vllm.config import ModelConfig  # noqa: PLC0415

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "vocab_size": 1000,
        "max_position_embeddings": longest,
        "torch_dtype": "float32",
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        return ModelConfig(
            model=folder, skip_tokenizer_init=True, max_model_len=longest, dtype="float32"
        )
