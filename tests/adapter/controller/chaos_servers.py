"""Servers of the matrix of faulty inputs: the page of each after a time under a steady load."""

from __future__ import annotations

import bisect
import functools
import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

Page = dict[str, float]
"""Values of one pod by name of its series, with labels where these distinguish it."""

PER_SECOND = 0.5
INPUT, OUTPUT, TTFT, ITL = 128.0, 178.0, 0.05, 0.02
"""Tokens of a request, and its latencies in seconds."""

RUNNING, KV_TOKENS, KV_SHARE = 2.0, 65536.0, 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Server:
    """One kind of server.

    Attributes:
        name: Its name for tables.
        page: Its page after a time under its load, seconds; `began` is when its counters were zero.
        inputs: Series by input.
        units: The series of an input that has a unit, which may be a thousandth of the right one.
        gauges: Inputs that are numbers of requests now.
        certain: Counters of which half as many more contradict what else the page counts. Of others they may
            be true: longer answers, and requests whose clients went away where the tokens of these are not
            counted.
        counted_twice: Counters of requests that another input of the page counts too.
        at_one_event: Inputs that are counted at one moment of a request, and so may be wrong together.
        names_model: Whether its series have the label `model_name`.
        apart_seconds: Seconds by which the load of each pod is later than that of the one before it; not 0
            where requests come by chance, so that the target is not the same all the time either.

    """

    name: str
    page: Callable[[float, float], Page]
    inputs: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str] = field(default_factory=dict)
    gauges: tuple[str, ...] = ("running", "waiting")
    certain: tuple[str, ...] = ("finished",)
    counted_twice: tuple[str, ...] = ("finished",)
    at_one_event: tuple[str, ...] = ()
    names_model: bool = True
    apart_seconds: float = 0.0

    def steady(self, seconds: float, *, began: float = 0.0) -> Page:
        """A pod after that time under its load."""
        return self.page(seconds, began)

    def counters_of(self, what: str) -> tuple[str, ...]:
        """Series of an input that only grow; none for a gauge."""
        if what in self.gauges or what in _LEVELS:
            return ()
        return self.inputs[what]


_LEVELS = frozenset({"KV cache", "KV size", "throughput"})
"""Inputs that are gauges, and no numbers of requests."""


def _means(name: str, total: float, count: float) -> Page:
    return {f"{name}_sum": total, f"{name}_count": count}


def _of(name: str) -> tuple[str, str]:
    return f"{name}_sum", f"{name}_count"


def _vllm(seconds: float, began: float) -> Page:
    done = PER_SECOND * (seconds - began)
    begun = done + RUNNING
    return {
        "vllm:num_requests_running": RUNNING,
        "vllm:num_requests_waiting": 0.0,
        "vllm:request_success_total": done,
        **_means("vllm:request_prompt_tokens", INPUT * done, done),
        **_means("vllm:request_generation_tokens", OUTPUT * done, done),
        **_means("vllm:time_to_first_token_seconds", TTFT * begun, begun),
        **_means(
            "vllm:inter_token_latency_seconds", (OUTPUT - 1) * ITL * done, (OUTPUT - 1) * done
        ),
        "vllm:generation_tokens_total": OUTPUT * done + RUNNING,
        "vllm:kv_cache_usage_perc": KV_SHARE,
        "vllm:num_preemptions_total": 0.0,
        "vllm:prompt_tokens_total": INPUT * done,
        "vllm:prompt_tokens_cached_total": 0.25 * INPUT * done,
        'vllm:admission_rejections_total{reason="max_num_queued_reqs"}': 0.0,
        "process_start_time_seconds": 9000.0 + began,
    }


VLLM = Server(
    name="vLLM",
    page=_vllm,
    inputs={
        "finished": ("vllm:request_success_total",),
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "prompt tokens": _of("vllm:request_prompt_tokens"),
        "output tokens": _of("vllm:request_generation_tokens"),
        "first tokens": _of("vllm:time_to_first_token_seconds"),
        "token latencies": _of("vllm:inter_token_latency_seconds"),
        "tokens generated": ("vllm:generation_tokens_total",),
        "cached tokens": ("vllm:prompt_tokens_cached_total",),
        "prompts in all": ("vllm:prompt_tokens_total",),
        "preemptions": ("vllm:num_preemptions_total",),
        "rejected": ('vllm:admission_rejections_total{reason="max_num_queued_reqs"}',),
        "KV cache": ("vllm:kv_cache_usage_perc",),
    },
    units={
        "prompt tokens": "vllm:request_prompt_tokens_sum",
        "output tokens": "vllm:request_generation_tokens_sum",
        "first tokens": "vllm:time_to_first_token_seconds_sum",
        "token latencies": "vllm:inter_token_latency_seconds_sum",
        "KV cache": "vllm:kv_cache_usage_perc",
    },
    certain=("finished", "first tokens"),
    at_one_event=("finished", "prompt tokens", "output tokens"),
)


def _sglang(seconds: float, began: float) -> Page:
    done = PER_SECOND * (seconds - began)
    begun = done + RUNNING
    return {
        "sglang:num_running_reqs": RUNNING,
        "sglang:num_queue_reqs": 0.0,
        "sglang:num_requests_total": done,
        "sglang:prompt_tokens_total": INPUT * done,
        "sglang:generation_tokens_total": OUTPUT * done,
        "sglang:cached_tokens_total": 0.25 * INPUT * done,
        **_means("sglang:time_to_first_token_seconds", TTFT * begun, begun),
        **_means(
            "sglang:inter_token_latency_seconds", (OUTPUT - 1) * ITL * done, (OUTPUT - 1) * done
        ),
        **_means("sglang:e2e_request_latency_seconds", (TTFT + (OUTPUT - 1) * ITL) * done, done),
        "sglang:token_usage": KV_SHARE,
        # Another number with every step that was measured.
        "sglang:gen_throughput": RUNNING / ITL + math.sin(seconds),
        "sglang:max_total_num_tokens": KV_TOKENS,
    }


SGLANG = Server(
    name="SGLang",
    page=_sglang,
    inputs={
        "finished": ("sglang:num_requests_total",),
        "finished by latency": _of("sglang:e2e_request_latency_seconds"),
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "prompt tokens": ("sglang:prompt_tokens_total",),
        "output tokens": ("sglang:generation_tokens_total",),
        "cached tokens": ("sglang:cached_tokens_total",),
        "first tokens": _of("sglang:time_to_first_token_seconds"),
        "token latencies": _of("sglang:inter_token_latency_seconds"),
        "KV cache": ("sglang:token_usage",),
        "KV size": ("sglang:max_total_num_tokens",),
        "throughput": ("sglang:gen_throughput",),
    },
    units={
        "prompt tokens": "sglang:prompt_tokens_total",
        "output tokens": "sglang:generation_tokens_total",
        "first tokens": "sglang:time_to_first_token_seconds_sum",
        "token latencies": "sglang:inter_token_latency_seconds_sum",
        "KV cache": "sglang:token_usage",
        "KV size": "sglang:max_total_num_tokens",
    },
    certain=("finished", "first tokens"),
    counted_twice=(),
)

_REJECTED_BY_TGI = 'tgi_request_failure{err="overloaded"}'


def _tgi(seconds: float, began: float) -> Page:
    done = PER_SECOND * (seconds - began)
    return {
        "tgi_batch_current_size": RUNNING,
        "tgi_queue_size": 0.0,
        "tgi_request_success": done,
        _REJECTED_BY_TGI: 0.0,
        # Counted as requests come.
        **_means("tgi_request_input_length", INPUT * (done + RUNNING), done + RUNNING),
        **_means("tgi_request_generated_tokens", OUTPUT * done, done),
    }


TGI = Server(
    name="TGI",
    page=_tgi,
    inputs={
        "finished": ("tgi_request_success",),
        "running": ("tgi_batch_current_size",),
        "waiting": ("tgi_queue_size",),
        "rejected": (_REJECTED_BY_TGI,),
        "prompt tokens": _of("tgi_request_input_length"),
        "output tokens": _of("tgi_request_generated_tokens"),
    },
    units={
        "prompt tokens": "tgi_request_input_length_sum",
        "output tokens": "tgi_request_generated_tokens_sum",
    },
    names_model=False,
)


_BATCH, _LEAST_SECONDS, _POISSON_SECONDS = 4, 2.0, 4000.0
"""Requests in service at once, seconds that each takes at least, and those for which requests come."""


@functools.cache
def _by_chance() -> tuple[list[float], list[float], list[float]]:
    """When requests of Poisson arrivals came, were taken up and ended, each sorted; seconds."""
    random = np.random.default_rng(1)
    number = random.poisson(PER_SECOND * _POISSON_SECONDS)
    came = sorted((_POISSON_SECONDS * random.random(number)).tolist())
    free, begun, ended = [0.0] * _BATCH, [], []
    for at in came:
        start = max(at, heapq.heappop(free))
        begun.append(start)
        ended.append(start + _LEAST_SECONDS + random.exponential(OUTPUT * ITL - _LEAST_SECONDS))
        heapq.heappush(free, ended[-1])
    return came, begun, sorted(ended)


def _tgi_by_chance(seconds: float, _: float) -> Page:
    came, begun, done = (float(bisect.bisect_right(of, seconds)) for of in _by_chance())
    return {
        "tgi_batch_current_size": begun - done,
        "tgi_queue_size": came - begun,
        "tgi_request_success": done,
        _REJECTED_BY_TGI: 0.0,
        **_means("tgi_request_input_length", INPUT * came, came),
        **_means("tgi_request_generated_tokens", OUTPUT * done, done),
    }


TGI_BY_CHANCE = replace(
    TGI, name="TGI, Poisson arrivals", page=_tgi_by_chance, apart_seconds=_POISSON_SECONDS / 4.0
)


def _requests_of_triton(kind: str) -> str:
    return f'nv_trt_llm_request_metrics{{model="tensorrt_llm",request_type="{kind}"}}'


def _cache_of_triton(kind: str) -> str:
    return f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="{kind}",model="tensorrt_llm"}}'


def _counted_by_triton(name: str) -> str:
    return f'{name}{{model="tensorrt_llm"}}'


def _means_of_triton(name: str) -> tuple[str, str]:
    return _counted_by_triton(f"{name}_sum"), _counted_by_triton(f"{name}_count")


_SUCCESS = _counted_by_triton("nv_inference_request_success")
_REJECTED = 'nv_inference_request_failure{model="tensorrt_llm",reason="REJECTED"}'
_FIRST = _means_of_triton("nv_inference_first_response_histogram_ms")
_INPUTS, _OUTPUTS = map(_means_of_triton, ("nv_llm_input_token_len", "nv_llm_output_token_len"))


def _triton(seconds: float, began: float) -> Page:
    done = PER_SECOND * (seconds - began)
    begun = done + RUNNING
    return {
        _requests_of_triton("scheduled"): RUNNING,
        _requests_of_triton("waiting"): 0.0,
        _SUCCESS: done,
        _REJECTED: 0.0,
        **dict(zip(_INPUTS, (INPUT * done, done), strict=True)),
        **dict(zip(_OUTPUTS, (OUTPUT * done, done), strict=True)),
        **dict(zip(_FIRST, (1000.0 * TTFT * begun, begun), strict=True)),
        _cache_of_triton("fraction"): KV_SHARE,
        _cache_of_triton("max"): KV_TOKENS / 64.0,
        _cache_of_triton("tokens_per"): 64.0,
    }


TRITON = Server(
    name="Triton",
    page=_triton,
    inputs={
        "finished": (_SUCCESS,),
        "running": (_requests_of_triton("scheduled"),),
        "waiting": (_requests_of_triton("waiting"),),
        "rejected": (_REJECTED,),
        "prompt tokens": _INPUTS,
        "output tokens": _OUTPUTS,
        "first tokens": _FIRST,
        "KV cache": (_cache_of_triton("fraction"),),
        "KV size": (_cache_of_triton("max"), _cache_of_triton("tokens_per")),
    },
    units={
        "prompt tokens": _INPUTS[0],
        "output tokens": _OUTPUTS[0],
        "first tokens": _FIRST[0],
        "KV cache": _cache_of_triton("fraction"),
        "KV size": _cache_of_triton("max"),
    },
    names_model=False,
)

SERVERS = (VLLM, SGLANG, TGI, TRITON)
