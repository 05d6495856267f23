"""The engine that schedules as vLLM, live: its times, its metrics page, its limits."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from prometheus_client.parser import text_string_to_metric_families

from emulator import vllm_options
from emulator.engine import EngineProfile, Request
from emulator.engines.backend import SchedulerProfile
from emulator.engines.live import LiveSchedulerEngine
from emulator.engines.protocol import Completion
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from emulator.vllm import Server
from tests.fakes import virtual_time

TIMES = StepTimes(base_ms=10, per_request_ms=1, per_prefill_token_ms=0.1, per_context_token_ms=0.01)
LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=64, kv_blocks=12)
ARRIVALS_MS = (0.0, 5.0, 5.5, 31.0, 33.0, 400.0, 2000.0)
PAGES = Path(__file__).parents[2] / "data" / "metrics"


def test_live_times_are_those_of_virtual_time() -> None:
    """At the same arrivals the live engine gives each token at the time that virtual time gives it."""
    live: list[Completion] = []
    gaps: list[float] = []

    async def serve() -> list[Request]:
        engine = LiveSchedulerEngine(
            TIMES, LIMITS, on_token=lambda _, gap_ms: gaps.append(gap_ms), on_finish=live.append
        )
        task = asyncio.create_task(engine.run())
        requests = []
        for arrival_ms in ARRIVALS_MS:
            await asyncio.sleep(max(arrival_ms / 1000 - asyncio.get_running_loop().time(), 0))
            requests.append(engine.submit(input_tokens=40, output_tokens=30))
        for request in requests:
            for _ in range(request.output_tokens):
                await request.tokens.get()
        assert (engine.unfinished, engine.state().finished) == (0, len(ARRIVALS_MS))
        task.cancel()
        return requests

    requests = virtual_time.run(serve())
    engine = SchedulerEngine(TIMES, LIMITS)
    for request in requests:
        engine.submit(arrival_ms=request.arrived_ms, input_tokens=40, output_tokens=30)
    engine.advance(math.inf)
    expected = engine.take_completions()
    assert any(completion.preemptions for completion in expected)
    for one, other in zip(live, expected, strict=True):
        assert (one.number, one.preemptions) == (other.number, other.preemptions)
        assert one.first_token_ms == pytest.approx(other.first_token_ms, abs=1e-4)
        assert one.last_token_ms == pytest.approx(other.last_token_ms, abs=1e-4)
        assert one.longest_gap_ms == pytest.approx(other.longest_gap_ms, abs=1e-4)
    assert max(gaps) >= max(completion.longest_gap_ms for completion in live)
    assert len(gaps) == 30 * len(ARRIVALS_MS)


def test_aborted_request_gives_its_place() -> None:
    """After an abort no token comes, and the next in line runs."""

    async def serve() -> None:
        engine = LiveSchedulerEngine(
            TIMES, SchedulerLimits(max_num_seqs=1, max_num_batched_tokens=64, kv_blocks=12)
        )
        task = asyncio.create_task(engine.run())
        first, second = (engine.submit(input_tokens=10, output_tokens=20) for _ in range(2))
        await asyncio.sleep(0.05)
        assert (engine.state().running, engine.state().waiting) == (1, 1)
        had = first.tokens.qsize()
        assert (engine.abort(first), engine.abort(first)) == (True, False)
        for _ in range(20):
            await second.tokens.get()
        assert first.tokens.qsize() == had > 0
        assert engine.state().finished == 1
        task.cancel()

    virtual_time.run(serve())


async def test_late_loop_loses_no_token() -> None:
    """Tokens that are due while something else has the processor are given out afterwards, all of them."""
    engine = LiveSchedulerEngine(TIMES, LIMITS, speed=20.0)
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0)
    for _ in range(3):
        request = engine.submit(input_tokens=20, output_tokens=5)
        time.sleep(0.02)  # noqa: ASYNC251 - more than the request takes at this speed
        async with asyncio.timeout(300):
            for _ in range(request.output_tokens):
                await request.tokens.get()
    assert (engine.unfinished, engine.state().finished) == (0, 3)
    task.cancel()


@contextlib.asynccontextmanager
async def running(
    *, requests: int | None = None, tokens: int | None = None, speed: float = 20.0
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    profile = SchedulerProfile(
        times=TIMES,
        limits=LIMITS,
        max_num_queued_reqs=requests,
        max_num_queued_tokens=tokens,
    )
    server = TestServer(Server(model="m", profile=profile, speed=speed).application())
    await server.start_server()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


def body(words: int, output_tokens: int) -> dict[str, object]:
    content = " ".join(["word"] * words)
    return {"messages": [{"role": "user", "content": content}], "max_tokens": output_tokens}


async def samples(session: aiohttp.ClientSession, url: str) -> dict[tuple[str, str], float]:
    """Values by name and the label that is neither model nor engine."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    return {
        (
            sample.name,
            ",".join(v for k, v in sample.labels.items() if k not in {"model_name", "engine"}),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_page_after_one_request() -> None:
    """The page shows vLLM's series: tokens, latencies, KV cache and its configuration, the start."""
    async with running() as (session, url):
        async with session.post(f"{url}/v1/chat/completions", json=body(20, 5)) as response:
            assert response.status == 200
        page = await samples(session, url)
        async with session.get(f"{url}/metrics") as response:
            text = await response.text()
    assert page["vllm:prompt_tokens_total", ""] == 20
    assert page["vllm:generation_tokens_total", ""] == 5
    assert page["vllm:request_success_total", "length"] == 1
    assert page["vllm:time_to_first_token_seconds_count", ""] == 1
    assert page["vllm:inter_token_latency_seconds_count", ""] == 4
    assert page["vllm:inter_token_latency_seconds_sum", ""] == pytest.approx(
        sum(11 + 0.01 * context for context in (21, 22, 23, 24)) / 1000, abs=1e-6
    )
    assert page["vllm:kv_cache_usage_perc", ""] == page["vllm:num_preemptions_total", ""] == 0
    assert time.time() - page["process_start_time_seconds", ""] < 3600
    assert 'vllm:cache_config_info{block_size="16"' in text
    assert 'num_gpu_blocks="13"' in text


async def test_page_has_the_names_of_a_real_one() -> None:
    """Every series of the emulated page is on the recorded page of vLLM 0.33."""
    real = (PAGES / "vllm-0.33-v1.prom").read_text(encoding="utf-8")
    names = {s.name for f in text_string_to_metric_families(real) for s in f.samples}
    async with running() as (session, url):
        async with session.post(f"{url}/v1/chat/completions", json=body(2, 2)) as response:
            assert response.status == 200
        shown = {name for name, _ in await samples(session, url) if name.startswith("vllm:")}
    assert len(shown) > 30
    assert shown <= names


@pytest.mark.virtual_time
async def test_page_while_requests_run() -> None:
    """KV use is that of the blocks held, and a client that leaves counts nowhere."""
    async with running(speed=1.0) as (session, url):
        call = session.post(f"{url}/v1/chat/completions", json=body(40, 100))
        client = asyncio.ensure_future(call)
        await asyncio.sleep(0.2)
        page = await samples(session, url)
        client.cancel()
        await asyncio.sleep(0.2)
        after = await samples(session, url)
    assert page["vllm:num_requests_running", ""] == 1
    assert 3 / 12 <= page["vllm:kv_cache_usage_perc", ""] <= 6 / 12
    assert after["vllm:num_requests_running", ""] == after["vllm:kv_cache_usage_perc", ""] == 0
    assert after["vllm:request_success_total", "abort"] == 0
    assert after["vllm:e2e_request_latency_seconds_count", ""] == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"requests": 0}, "max_num_queued_reqs"), ({"tokens": 0}, "max_num_queued_tokens")],
)
async def test_admission_limits(fields: dict[str, int], reason: str) -> None:
    """Beyond a queue limit requests get status 503 and count by reason."""
    async with running(**fields) as (session, url):
        async with session.post(f"{url}/v1/chat/completions", json=body(1, 1)) as response:
            assert response.status == 503
            assert reason in (await response.json())["error"]["message"]
        page = await samples(session, url)
    assert page["vllm:admission_rejections_total", reason] == 1
    assert page["vllm:request_success_total", "length"] == 0


async def test_request_longer_than_the_kv_cache() -> None:
    """A request that can never fit is refused at once."""
    async with (
        running() as (session, url),
        session.post(f"{url}/v1/chat/completions", json=body(150, 100)) as response,
    ):
        assert response.status == 400
        assert "kv_blocks (12)" in (await response.json())["error"]["message"]


def test_flags_describe_the_engine() -> None:
    """`--engine vllm` takes step times and limits; without it the profile's times hold."""
    parser = vllm_options.parser()
    assert isinstance(vllm_options.profile_of(parser.parse_args([])), EngineProfile)
    flags = [
        *("--engine", "vllm", "--step-base-ms", "5", "--step-per-request-ms", "0.1"),
        *("--step-per-prefill-token-ms", "0.2", "--step-per-context-token-ms", "0.3"),
        *("--step-per-sqrt-request-ms", "0.4", "--step-per-prompt-ms", "0.5"),
        *("--max-num-seqs", "2", "--max-num-batched-tokens", "8", "--kv-blocks", "3"),
        *("--max-num-queued-reqs", "9", "--max-num-queued-tokens", "99"),
    ]
    assert vllm_options.profile_of(parser.parse_args(flags)) == SchedulerProfile(
        times=StepTimes(
            base_ms=5,
            per_request_ms=0.1,
            per_prefill_token_ms=0.2,
            per_context_token_ms=0.3,
            per_sqrt_request_ms=0.4,
            per_prompt_ms=0.5,
        ),
        limits=SchedulerLimits(max_num_seqs=2, max_num_batched_tokens=8, kv_blocks=3),
        max_num_queued_reqs=9,
        max_num_queued_tokens=99,
    )
    with pytest.raises(ValueError, match="max_num_queued_reqs: must be >= 0"):
        vllm_options.profile_of(parser.parse_args([*flags, "--max-num-queued-reqs", "-1"]))
    with pytest.raises(ValueError, match="base_ms"):
        vllm_options.profile_of(parser.parse_args([*flags, "--step-base-ms", "nan"]))
