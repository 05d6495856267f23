"""A load generator: sends requests at a scheduled rate and measures their latencies by streaming."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

RETRY_SECONDS = 0.2
"""Scenario seconds before the first retry; each later one waits twice as long, up to `RETRY_MAX_SECONDS`."""
RETRY_MAX_SECONDS = 5.0
RESOLVE_SECONDS = 2.0
"""Interval between name look-ups, because replicas come and go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A constant rate of requests per minute for some scenario seconds."""

    duration_seconds: float
    rate_rpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One finished request.

    Attributes:
        arrived_at_seconds: Scenario time of the arrival since the generator's start.
        finished_at_seconds: Scenario time of the last token since the generator's start.
        ttft_ms: Scenario time from the arrival to the first token.
        itl_ms: Mean scenario time between tokens; 0 for a single token.

    """

    arrived_at_seconds: float
    finished_at_seconds: float
    ttft_ms: float
    itl_ms: float


def parse_schedule(text: str) -> tuple[Phase, ...]:
    """Parse phases such as `[[120, 60], [120, 80]]`: seconds, requests per minute.

    Raises:
        ValueError: The text is no schedule; the message names the entry and what is wrong.

    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"schedule: not JSON like [[120, 60], [120, 80]]: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError("schedule: must be a list of [seconds, requests per minute]")
    phases = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"schedule[{index}]: must be [seconds, rate], not {entry!r}")
        duration, rate = entry
        if not _number(duration) or duration <= 0:
            raise ValueError(f"schedule[{index}]: seconds must be a number > 0, not {duration!r}")
        if not _number(rate) or rate < 0:
            raise ValueError(f"schedule[{index}]: rate must be a number >= 0, not {rate!r}")
        phases.append(Phase(duration_seconds=float(duration), rate_rpm=float(rate)))
    return tuple(phases)


class LoadGenerator:
    """Open-loop load: sends requests on schedule, independent of earlier ones' completion.

    Attributes:
        rate_rpm: Present rate of the schedule, requests per minute.
        sent: Requests sent so far, without retries.
        failed: Failed attempts so far, each of which is retried.
        completed: Finished requests.

    """

    def __init__(
        self,
        *,
        model: str,
        phases: Sequence[Phase],
        input_tokens: int,
        output_tokens: int,
        speed: float,
        endpoints: Callable[[], Sequence[str]],
        arrivals: Literal["uniform", "poisson"] = "uniform",
        seed: int = 0,
    ) -> None:
        """Create a generator; a request goes to the URL of `endpoints()` with the fewest outstanding ones."""
        self._output_tokens = output_tokens
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": " ".join(["word"] * input_tokens)}],
            "max_tokens": output_tokens,
            "stream": True,
        }
        self._phases = phases
        self._speed = speed
        self._endpoints = endpoints
        self._arrivals = arrivals
        self._seed = seed
        self._outstanding: Counter[str] = Counter()
        self._began = 0.0
        self.rate_rpm = 0.0
        self.sent = 0
        self.failed = 0
        self.completed: list[Completion] = []

    @property
    def succeeded(self) -> int:
        """Requests that received all their tokens."""
        return len(self.completed)

    def now(self) -> float:
        """Scenario seconds since `run` began."""
        return (asyncio.get_running_loop().time() - self._began) * self._speed

    async def run(self) -> None:
        """Follow the schedule, then wait for outstanding requests; cancelling cancels these too."""
        self._began = asyncio.get_running_loop().time()
        try:
            await self._follow()
        finally:
            self.rate_rpm = 0.0

    async def _follow(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for at, rate in self._arrival_times():
                await asyncio.sleep(max(at - self.now(), 0.0) / self._speed)
                self.rate_rpm = rate[0]
                if rate[1]:
                    self.sent += 1
                    group.create_task(self._request(session, at))
            self.rate_rpm = 0.0

    def _arrival_times(self) -> Iterator[tuple[float, tuple[float, bool]]]:
        """Yield times, each with the rate from then on and whether a request arrives.

        A request arrives when the expected count passes the next threshold, across the phases' borders:
        uniform phases of 60 and 80 requests send exactly 140.
        """
        drawn = random.Random(self._seed)  # noqa: S311 - load, not secrets
        poisson = self._arrivals == "poisson"
        start = expected = 0.0
        threshold = drawn.expovariate(1.0) if poisson else 0.5
        for phase in self._phases:
            end, rate_rps = start + phase.duration_seconds, phase.rate_rpm / 60.0
            yield start, (phase.rate_rpm, False)
            while rate_rps and (at := start + (threshold - expected) / rate_rps) < end:
                yield at, (phase.rate_rpm, True)
                threshold += drawn.expovariate(1.0) if poisson else 1.0
            expected += rate_rps * phase.duration_seconds
            start = end
        yield start, (0.0, False)

    async def _request(self, session: aiohttp.ClientSession, arrived: float) -> None:
        delay, refused = RETRY_SECONDS, set[str]()
        while True:
            urls = list(self._endpoints())
            # A dead endpoint has the fewest outstanding requests, and must not attract its own retries.
            fresh = [url for url in urls if url not in refused]
            if not fresh:
                refused.clear()
            fresh = fresh or urls
            if fresh:
                url = min(fresh, key=lambda item: self._outstanding[item])
                self._outstanding[url] += 1
                try:
                    self.completed.append(await self._once(session, url, arrived))
                except (aiohttp.ClientError, OSError, ValueError):
                    self.failed += 1
                    refused.add(url)
                else:
                    return
                finally:
                    self._outstanding[url] -= 1
            await asyncio.sleep(delay / self._speed)
            delay = min(2 * delay, RETRY_MAX_SECONDS)

    async def _once(self, session: aiohttp.ClientSession, url: str, arrived: float) -> Completion:
        first: float | None = None
        last, tokens = arrived, 0
        async with session.post(f"{url}/v1/chat/completions", json=self._body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: ") and b'"content"' in line:
                    last, tokens = self.now(), tokens + 1
                    first = last if first is None else first
        if first is None or tokens < self._output_tokens:
            raise aiohttp.ClientPayloadError("the stream ended early")
        return Completion(
            arrived_at_seconds=arrived,
            finished_at_seconds=last,
            ttft_ms=1000.0 * (first - arrived),
            itl_ms=1000.0 * (last - first) / (tokens - 1) if tokens > 1 else 0.0,
        )


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


class Addresses:
    """Base URLs of all addresses behind one URL, as with a headless Service."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"--url: must be http://HOST[:PORT], not {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self.urls: list[str] = []

    async def follow(self) -> None:
        """Resolve the name periodically until cancelled; a failure keeps the last addresses."""
        while True:
            await self.resolve()
            await asyncio.sleep(RESOLVE_SECONDS)

    async def resolve(self) -> None:
        """Resolve the name once."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            infos = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            hosts = {str(item[4][0]) for item in infos}
            shown = [f"[{host}]" if ":" in host else host for host in sorted(hosts)]
            self.urls = [f"http://{host}:{self._port}" for host in shown]


async def send(load: LoadGenerator, addresses: Addresses) -> None:
    """Follow the schedule until its end or SIGTERM, and print progress every 10 s."""

    async def report() -> None:
        while True:
            await asyncio.sleep(10)
            _print_progress(load, len(addresses.urls))

    tasks = [asyncio.create_task(addresses.follow()), asyncio.create_task(report())]
    run = asyncio.create_task(load.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, run.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await run
    finally:
        for task in tasks:
            task.cancel()
        _print_progress(load, len(addresses.urls))


def _print_progress(load: LoadGenerator, servers: int) -> None:
    recent = load.completed[-100:]
    mean = "" if not recent else f", TTFT {sum(c.ttft_ms for c in recent) / len(recent):.0f} ms"
    print(  # noqa: T201
        f"{load.rate_rpm:g}/min to {servers} servers: {load.sent} sent,"
        f" {load.succeeded} finished{mean}",
        flush=True,
    )


_FLAGS: tuple[tuple[str, Callable[[str], object], object, str], ...] = (
    ("--model", str, "default/default", "name of the model to request"),
    ("--schedule", str, "[[60, 60]]", "phases as [[seconds, requests per minute], ...]"),
    ("--input-tokens", int, 50, "prompt words per request"),
    ("--output-tokens", int, 178, "tokens to generate per request"),
    ("--seed", int, 0, "seed of poisson arrivals"),
)


def main() -> None:
    """Send a schedule of requests to all addresses of one URL."""
    parser = argparse.ArgumentParser(
        prog="emulator.load",
        description="Send chat completions to vLLM servers at a scheduled rate, and print mean TTFT.",
    )
    parser.add_argument(
        "--url",
        required=True,
        help="servers as http://HOST[:PORT]; requests go to every address of the host",
    )
    parser.add_argument("--arrivals", choices=("uniform", "poisson"), default="poisson",
                        help="distribution of arrivals. Default: poisson")  # fmt: skip
    for flag, kind, default, text in _FLAGS:
        parser.add_argument(flag, type=kind, default=default, help=f"{text}. Default: {default}")
    args = parser.parse_args()
    try:
        addresses = Addresses(args.url)
        phases = parse_schedule(args.schedule)
    except ValueError as error:
        parser.error(str(error))
    load = LoadGenerator(
        model=args.model,
        phases=phases,
        input_tokens=args.input_tokens,
        output_tokens=args.output_tokens,
        speed=1.0,
        endpoints=lambda: addresses.urls,
        arrivals=args.arrivals,
        seed=args.seed,
    )
    asyncio.run(send(load, addresses))


if __name__ == "__main__":
    main()
