"""The emulated server: its times are the profile's, its metrics are vLLM's, its API is OpenAI's.

Engine, server and load run in virtual time, so the times are exact on a busy machine, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from adapter.collector import exposition
from emulator.engine import Engine, EngineProfile
from emulator.load import LoadGenerator, parse_schedule
from emulator.vllm import Server
from tests.fakes import virtual_time

PROFILE = EngineProfile(alpha_ms=20.0, beta_ms=1.0, gamma_ms=10.0, delta_ms=0.1, max_batch=4)
HANG_SECONDS = 300
"""Bound for programs that take a second or two: it turns a hang into a failure."""


def with_engine(use: Callable[[Engine], Awaitable[None]]) -> None:
    """Use a running engine in virtual time."""

    async def main() -> None:
        engine = Engine(PROFILE)
        task = asyncio.create_task(engine.run())
        try:
            await use(engine)
        finally:
            task.cancel()

    virtual_time.run(main())


async def admitted() -> None:
    """Let the engine handle what is due now."""
    await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[str]:
    server = TestServer(Server(model="m", profile=PROFILE, speed=1.0).application())
    await server.start_server()
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


def test_times_are_the_profiles() -> None:
    """A lone request takes its prefill for the first token and alpha + beta for each other."""

    async def use(engine: Engine) -> None:
        request = engine.submit(input_tokens=50, output_tokens=11)
        for _ in range(11):
            last = await request.tokens.get()
        assert request.admitted_ms is not None
        assert request.first_token_ms is not None
        assert request.first_token_ms - request.admitted_ms == pytest.approx(10 + 0.1 * 50)
        assert last - request.first_token_ms == pytest.approx(10 * 21.0)

    with_engine(use)


async def test_a_late_loop_dates_a_request_by_its_arrival() -> None:
    """An idle engine that is woken late, as on a busy machine, has served the request since it came."""
    engine = Engine(PROFILE, speed=20.0)
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0)
    request = engine.submit(input_tokens=20, output_tokens=2)
    time.sleep(0.02)  # noqa: ASYNC251 - 400 ms of the engine
    try:
        async with asyncio.timeout(HANG_SECONDS):
            times_ms = [await request.tokens.get() for _ in range(2)]
    finally:
        task.cancel()
    assert request.admitted_ms == request.arrived_ms
    assert times_ms == pytest.approx([request.arrived_ms + 12, request.arrived_ms + 33], abs=1e-3)


def test_a_full_batch_is_slower_and_the_rest_waits() -> None:
    """Four requests decode at alpha + 4 beta; the fifth starts when one of them ends."""

    async def use(engine: Engine) -> None:
        requests = [engine.submit(input_tokens=0, output_tokens=21) for _ in range(5)]
        await admitted()
        assert (len(engine.running), len(engine.waiting)) == (4, 1)
        for request in requests:
            for _ in range(21):
                await request.tokens.get()
        first = requests[0]
        assert first.last_token_ms is not None
        assert first.first_token_ms is not None
        assert first.last_token_ms - first.first_token_ms == pytest.approx(20 * 24.0)
        assert requests[4].admitted_ms == pytest.approx(first.last_token_ms)

    with_engine(use)


async def test_metrics_are_what_the_scraper_reads() -> None:
    """After one request the page shows it finished, with its tokens and latencies."""
    body = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 5}
    async with running() as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            answer = await response.json()
        page, _ = await exposition.fetch(session, f"{url}/metrics", "m")
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert (page.finished, page.running, page.waiting) == (1, 0, 0)
    assert page.prompt_tokens == (3, 1)
    assert page.generation_tokens == (5, 1)
    assert page.itl == pytest.approx((4 * 0.021, 4))
    assert page.ttft[1] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "other", "messages": []}, 404),
        ({"model": "m"}, 400),
        ({"model": "m", "messages": [], "max_tokens": 0}, 400),
    ],
)
async def test_bad_requests_are_openai_errors(body: dict[str, object], status: int) -> None:
    """What the server cannot take is an error object with a message."""
    async with (
        running() as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == status
        assert (await response.json())["error"]["message"]


def test_load_follows_its_schedule_over_all_endpoints() -> None:
    """60/min for ten seconds are ten arrivals, all finished, on both servers, at the engine's ITL."""

    async def main() -> tuple[LoadGenerator, list[float]]:
        async with running() as one, running() as two:
            generator = LoadGenerator(
                model="m",
                phases=parse_schedule("[[10, 60]]"),
                input_tokens=3,
                output_tokens=60,
                speed=1.0,
                endpoints=lambda: [one, two],
            )
            await generator.run()
            async with aiohttp.ClientSession() as session:
                pages = [
                    await exposition.fetch(session, f"{url}/metrics", "m") for url in (one, two)
                ]
            return generator, [page.finished for page, _ in pages]

    generator, finished = virtual_time.run(main())
    assert (generator.sent, len(generator.completed), generator.failed) == (10, 10, 0)
    assert sum(finished) == 10
    assert all(finished)
    # One request a second, which takes 1.3 s on a server of its own.
    assert [item.itl_ms for item in generator.completed] == pytest.approx([21.0] * 10, rel=0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[10", "not JSON"),
        ("[]", "must be a list"),
        ("[[10, 5], [0, 5]]", r"schedule\[1\]: seconds must be a number > 0"),
        ('[[10, "x"]]', r"schedule\[0\]: rate must be a number >= 0"),
    ],
)
def test_a_bad_schedule_names_its_entry(text: str, said: str) -> None:
    """The error says which entry is wrong, and how."""
    with pytest.raises(ValueError, match=said):
        parse_schedule(text)


async def test_a_stream_ends_with_its_usage() -> None:
    """With include_usage the last chunk before [DONE] has no choices and counts the tokens."""
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "one two"}]}],
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with (
        running() as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        lines = [line for line in (await response.text()).split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    last = json.loads(lines[-2].removeprefix("data: "))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_an_aborted_request_makes_room() -> None:
    """Aborting one of a full batch admits the waiting one; aborting twice does nothing."""

    async def use(engine: Engine) -> None:
        requests = [engine.submit(input_tokens=0, output_tokens=1000) for _ in range(5)]
        await admitted()
        assert engine.abort(requests[0])
        await requests[4].tokens.get()
        assert not engine.abort(requests[0])

    with_engine(use)


def test_a_bad_profile_is_a_usage_error() -> None:
    """The command refuses what the engine has no meaning for, with exit status 2."""
    command = [sys.executable, "-m", "emulator.vllm", "--alpha", "nan"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert ended.returncode == 2
    assert "alpha, beta, gamma and delta must be ms >= 0" in ended.stderr


def test_the_port_file_names_a_port_that_listens(tmp_path: Path) -> None:
    """The file appears whole when the server listens; SIGTERM ends it with status 0."""
    port = tmp_path / "port"
    command = [sys.executable, "-m", "emulator.vllm", "--port", "0", "--port-file", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            while not port.exists():  # a hang ends by the test's own timeout
                assert server.poll() is None
                time.sleep(0.02)
            with urllib.request.urlopen(f"http://127.0.0.1:{int(port.read_text())}/health") as got:
                assert got.status == 200
        finally:
            server.terminate()
        assert server.wait(HANG_SECONDS) == 0
