"""Pages that are written oddly: read for what they say, and no number from what they lack."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from adapter.collector import exposition
from adapter.collector.model_servers import PodMetrics
from adapter.resources.pods import MESH_PATH

PAGES = Path(__file__).parents[3] / "data" / "metrics"
LABEL = '{engine="0",model_name="m"}'
NUMBERS = {
    "num_requests_running": 3,
    "num_requests_waiting": 2,
    "request_success_total": 10,
    "request_prompt_tokens_sum": 1000,
    "request_prompt_tokens_count": 10,
    "request_generation_tokens_sum": 1780,
    "request_generation_tokens_count": 10,
    "time_to_first_token_seconds_sum": 0.5,
    "time_to_first_token_seconds_count": 10,
    "inter_token_latency_seconds_sum": 37,
    "inter_token_latency_seconds_count": 1770,
}


def page(**others: float | None) -> str:
    """A vLLM page; None leaves a series out."""
    numbers = {**NUMBERS, **others}
    return "".join(
        f"vllm:{name}{LABEL} {value}\n" for name, value in numbers.items() if value is not None
    )


def read(text: str) -> PodMetrics:
    """What it says."""
    return exposition.parse(text, "m", "http://u")


PLAIN = read(page())


def test_a_series_that_is_shown_twice_counts_once() -> None:
    """As Prometheus has it: the first value; other labels are another series."""
    assert read(page() + page()) == PLAIN
    assert read(page() + f"vllm:num_requests_running{LABEL} 7\n") == PLAIN
    more = page() + 'vllm:num_requests_running{engine="1",model_name="m"} 7\n'
    assert read(more).running == 10


@pytest.mark.parametrize("behind", ["", " 1700000000000", ' # {trace_id="a"} 1.0'])
def test_latency_buckets_that_are_shown_twice_count_once(behind: str) -> None:
    """Whatever stands behind their values; other engines' buckets are other series."""
    name = "vllm:time_to_first_token_seconds_bucket"
    lines = "".join(
        f'{name}{{engine="{engine}",le="{le}",model_name="m"}} {value}{behind}\n'
        for engine, values in (("0", (1, 3, 4)), ("1", (0, 2, 2)))
        for le, value in zip(("0.1", "1.0", "+Inf"), values, strict=True)
    )
    once = read(page() + lines).ttft_buckets
    assert once is not None
    assert list(once.counts) == [1, 4, 1]
    assert read(page() + lines + lines).ttft_buckets == once


@pytest.mark.parametrize("behind", [" 1700000000000", ' # {trace_id="a"} 1.0'])
def test_a_series_shown_twice_with_a_time_or_an_exemplar_counts_once(behind: str) -> None:
    """Its first value, though the other line has another one."""
    twice = "".join(f"vllm:num_requests_running{LABEL} {value}{behind}\n" for value in ("3", "5"))
    assert read(page(num_requests_running=None) + twice).running == 3


@pytest.mark.parametrize("part", ["sum", "count"])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("request_prompt_tokens", "prompt_tokens"),
        ("request_generation_tokens", "generation_tokens"),
        ("time_to_first_token_seconds", "ttft"),
        ("inter_token_latency_seconds", "itl"),
    ],
)
def test_half_a_histogram_is_no_mean_of_zero(name: str, field: str, part: str) -> None:
    """A sum without a count, or a count without a sum, says nothing of the mean."""
    assert getattr(read(page(**{f"{name}_{part}": None})), field) == (0.0, 0.0)


def test_a_queue_that_is_shown_by_reason_only_is_its_sum() -> None:
    """And counts once where both are shown."""
    by_reason = "".join(
        f'vllm:num_requests_waiting_by_reason{{engine="0",model_name="m",reason="{reason}"}} {value}\n'
        for reason, value in (("capacity", 4), ("deferred", 1))
    )
    assert read(page(num_requests_waiting=None) + by_reason).waiting == 5
    assert read(page() + by_reason).waiting == 2


def test_labels_of_later_versions_change_nothing() -> None:
    """Series split by a label that is not known add up."""
    running = f"vllm:num_requests_running{LABEL} 3\n"
    assert running in page()
    split = "".join(
        f'vllm:num_requests_running{{engine="0",model_name="m",tenant="{tenant}"}} {value}\n'
        for tenant, value in (("a", 1), ("b", 2))
    )
    assert read(page().replace(running, split)) == PLAIN


@pytest.mark.parametrize(
    "text",
    ["", "# HELP x y\n# EOF\n", "<html><body>hello</body></html>", "\x00\x01", "{}", "vllm:"],
)
def test_what_is_no_page_of_a_server_is_said_to_be_none(text: str) -> None:
    """Empty, HTML, binary: an error that asks what it is, and no load of zero."""
    with pytest.raises(exposition.ScrapeError, match="is this a model server"):
        read(text)


async def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    """As files that were written on other systems have it."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=b"\xef\xbb\xbf" + page().encode())

    application = web.Application()
    application.router.add_get("/metrics", serve)
    async with TestServer(application) as server, ClientSession() as session:
        metrics, _ = await exposition.fetch(session, str(server.make_url("/metrics")), "m")
    assert metrics == PLAIN


async def test_no_copy_is_asked_for_that_a_proxy_has() -> None:
    """Its numbers would be of another time."""
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Cache-Control", ""))
        return web.Response(text=page())

    application = web.Application()
    application.router.add_get("/metrics", serve)
    async with TestServer(application) as server, ClientSession() as session:
        await exposition.fetch(session, str(server.make_url("/metrics")), "m")
    assert asked == ["no-cache"]


@pytest.mark.parametrize(
    ("status", "body", "nobody"),
    [
        (404, "", True),
        (200, "python_info 1\n", True),
        (200, page(), False),
        (200, page().replace('"m"', '"other"'), False),
        (200, "vllm:num_requests_running 3\n", False),
        (401, "", False),
        (503, "", False),
    ],
)
async def test_an_address_without_a_model_server_is_told_from_one_that_fails(
    status: int, body: str, *, nobody: bool
) -> None:
    """Ranks of a group may have an HTTP server of something else; one that fails has a model server."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    application = web.Application()
    application.router.add_get("/metrics", serve)
    async with TestServer(application) as server, ClientSession() as session:
        said: exposition.ScrapeError | None = None
        try:
            await exposition.fetch(session, str(server.make_url("/metrics")), "m")
        except exposition.ScrapeError as error:
            said = error
    assert isinstance(said, exposition.NoServerError) == nobody
    assert (said is None) == (body == page())


def test_lengths_of_a_histogram_that_falls_are_not_known() -> None:
    """Counts up to a bound cannot be less than those up to a smaller one."""

    def lengths(*counts: int) -> str:
        name = "vllm:request_prompt_tokens_bucket"
        return "".join(
            f'{name}{{engine="0",le="{le}",model_name="m"}} {count}\n'
            for le, count in zip(("10", "100", "+Inf"), counts, strict=True)
        )

    assert read(page() + lengths(5, 8, 10)).input_moments is not None
    assert read(page() + lengths(5, 3, 10)).input_moments is None


@pytest.mark.parametrize(("shown", "share"), [(0.45, 0.45), (1.01, 1.0), (45, None)])
def test_a_kv_cache_in_another_unit_is_not_full(shown: float, share: float | None) -> None:
    """A share is at most 1; 45 may be percent, or anything."""
    assert read(page(kv_cache_usage_perc=shown)).kv_cache == share


@pytest.mark.parametrize("ended", ["e2e_request_latency_seconds_count", None])
def test_finished_requests_have_several_counters(ended: str | None) -> None:
    """A page whose main counter was dropped or renamed is no server that finishes nothing."""
    more = {} if ended is None else {ended: 10, "request_generation_tokens_count": None}
    without = page(request_success_total=None, request_success=10, **more)
    assert read(without).finished == PLAIN.finished


def test_first_tokens_without_any_request_that_ended_are_no_zero() -> None:
    """A few may be of requests that have just begun; hundreds cannot."""
    gone = {name: None for name in NUMBERS if name.startswith("request_")}
    assert read(page(**gone)).finished == 0
    with pytest.raises(exposition.ScrapeError, match="though requests had first tokens"):
        read(page(**{**gone, "time_to_first_token_seconds_count": 500}))


def test_the_size_of_a_cache_does_not_make_an_engine_of_a_simulator() -> None:
    """A simulator shows it beside its gauges and counts nothing: no zero from it."""
    gauges = page(**{name: None for name in NUMBERS if not name.startswith("num_")})
    cache = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="1024"} 1\n'
    with pytest.raises(exposition.ScrapeError, match="no counter of finished requests"):
        read(gauges + cache)


@pytest.mark.parametrize(
    ("queues", "waiting"),
    [
        ({"num_prefill_bootstrap_queue_reqs": 4}, 6),
        ({"num_prefill_prealloc_queue_reqs": 4, "num_decode_prealloc_queue_reqs": 1}, 7),
        ({"num_grammar_queue_reqs": 4}, 6),
        ({"num_grammar_queue_reqs": 4, "num_prefill_bootstrap_queue_reqs": 3}, 9),
        ({"num_decode_prealloc_queue_reqs": 4, "num_decode_transfer_queue_reqs": 3}, 9),
        ({"num_prefill_inflight_queue_reqs": 4}, 2),
    ],
)
def test_every_queue_of_sglang_waits(queues: dict[str, int], waiting: int) -> None:
    """Those of servers that only prefill or only decode, and of grammars; each rank shows them."""
    numbers = {"num_running_reqs": 3, "num_queue_reqs": 2, **queues, "gen_throughput": 1}
    text = "".join(
        f'sglang:{name}{{model_name="m",tp_rank="{rank}"}} {value}\n'
        for rank in (0, 1)
        for name, value in numbers.items()
    )
    assert read(text).waiting == waiting


@pytest.mark.parametrize("shown", ["NaN", "+Inf", "-1"])
def test_a_throughput_that_is_no_number_refuses_no_page(shown: str) -> None:
    """Only whether an engine shows it says something."""
    text = (PAGES / "sglang-0.5.5-dp2.prom").read_text()
    odd = re.sub(r"^(sglang:gen_throughput\S*) .*", rf"\1 {shown}", text, flags=re.MULTILINE)
    model = "deepseek-ai/DeepSeek-V2-Lite-Chat"
    assert odd != text
    assert exposition.parse(odd, model, "x") == exposition.parse(text, model, "x")


@pytest.mark.parametrize("start", ["NaN", "+Inf", "0", "1.7e12"])
def test_a_start_that_cannot_be_one_is_not_known(start: str) -> None:
    """Not even in milliseconds; the load of the page is."""
    assert read(page() + f"process_start_time_seconds {start}\n") == PLAIN


async def test_what_a_mesh_refuses_is_told_with_the_fix() -> None:
    """Plain requests are reset where mTLS is wanted; what Istio alone shows has nothing of the server."""

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ClientSession() as session:
            with pytest.raises(exposition.ScrapeError, match=r"mTLS.*prometheus\.io/port"):
                await exposition.fetch(session, f"http://127.0.0.1:{port}/metrics", "m")
    with pytest.raises(exposition.NoServerError, match=r"Istio merges.*prometheus\.io/port"):
        exposition.parse("istio_requests_total 5\n", "m", f"http://10.0.0.1:15020{MESH_PATH}")
