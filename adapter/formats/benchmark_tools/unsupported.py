"""What a file is that holds no runs at a load, and what to give instead.

Benchmark tools write more than their results at one load: records of single requests, runs of one static
batch without a server, whole throughput. None has what a fit needs, so each gets a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SERVE = "give the file that `vllm bench serve --save-result` writes"
_SGLANG = "give the file that `python -m sglang.bench_serving --output-file` writes"
_AIPERF = "give profile_export_aiperf.json, or profile_export_genai_perf.json of GenAI-Perf"
_OTHERS = "measure with vLLM's bench serve, SGLang's bench_serving or guidellm"

_KINDS: Sequence[tuple[frozenset[str], str]] = (
    (frozenset({"avg_latency", "percentiles"}),
     f"is of vLLM's bench latency, which has no first token and no server; {_SERVE}"),
    (frozenset({"elapsed_time", "num_requests", "total_num_tokens"}),
     f"is of vLLM's bench throughput, which has no latencies; {_SERVE}"),
    (frozenset({"batch_size", "input_len", "output_len", "overall_throughput"}),
     f"is of SGLang's bench_one_batch, a static batch in which no prompt delays a decode; {_SGLANG}"),
    (frozenset({"successful_requests", "total_latency", "total_throughput"}),
     f"is of SGLang's bench_offline_throughput, which has no latencies; {_SGLANG}"),
    (frozenset({"results_inter_token_latency_s_mean"}),
     f"is of LLMPerf, whose inter-token latency has the first token in it; {_OTHERS}"),
    (frozenset({"inter_token_latency_s", "ttft_s", "end_to_end_latency_s"}),
     f"is a request of LLMPerf, and no load; {_OTHERS}"),
    (frozenset({"experiments", "service_kind"}),
     f"holds single requests of GenAI-Perf; {_AIPERF}"),
    (frozenset({"hw", "conc", "tput_per_gpu"}),
     "is a summary of InferenceMAX, which has no rate of requests; give the file of its benchmark_serving"),
    (frozenset({"version", "scenario", "metrics"}),
     "is a report of llm-d-benchmark; give the result file of the tool that it ran, such as guidellm's"),
    (frozenset({"version", "scenario", "results"}),
     "is a report of llm-d-benchmark; give the result file of the tool that it ran, such as guidellm's"),
)  # fmt: skip
"""Keys that a kind of file has, and what it is."""

_REQUEST = frozenset({"value", "unit"})
"""Keys of a metric of one request, where those of a run have statistics."""

_HEADLINE = "Serving Benchmark Result"
"""Headline of what vLLM's and SGLang's benchmarks print."""


def kind(document: Mapping[str, Any]) -> str:
    """What the document is and what to give instead; empty where it is not known."""
    for keys, text in _KINDS:
        if keys <= document.keys():
            return text
    metrics = document.get("metrics")
    first = next(iter(metrics.values()), None) if isinstance(metrics, Mapping) else None
    if isinstance(first, Mapping) and first.keys() >= _REQUEST:
        return f"is a request of AIPerf, and no load; {_AIPERF}"
    return ""


def printed(text: str) -> str:
    """What a text is that holds the lines which a benchmark prints; empty of another."""
    lines = (line for line in text.splitlines() if _HEADLINE in line)
    if all(line.lstrip().startswith("#") for line in lines):
        return ""  # in a comment of a file of another kind
    return (
        f"is what a benchmark printed; {_SERVE}, or the one that `python -m sglang.bench_serving"
        " --output-file` writes"
    )


def kind_of_table(header: Sequence[str]) -> str:
    """What a table is whose header has these cells; empty where it is not known."""
    if header and header[0].strip() == "Metric":
        return f"is the CSV of GenAI-Perf or AIPerf; {_AIPERF}"
    return ""
