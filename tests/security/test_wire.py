"""Responses that are more than a response, and pages that cost more than their bytes: bounded, and told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
import trustme

from adapter.clock import Clock
from adapter.collector import exposition
from adapter.collector.gateway import Gateways
from adapter.collector.pickers.pages import MODELS, Known
from adapter.collector.pod_scraper import PodScraper, ScrapeJob
from adapter.collector.transport import reading, wire
from adapter.collector.transport.access import Access

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PAGE = b"".join(
    f'vllm:{name}{{model_name="m"}} 0\n'.encode()
    for name in (
        "num_requests_running", "num_requests_waiting", "request_success_total",
        "prompt_tokens_total", "generation_tokens_total",
    )
)  # fmt: skip
ENDLESS = {
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, wire.TOO_MUCH),
    "blank lines": (b"", b"\r\n" * 10_000, wire.TOO_MUCH),
    "small chunks": (CHUNKED, b"1\r\n#\r\n" * 5000, "too many small chunks"),
    "extensions": (CHUNKED, (b"1;" + b"a" * 8000 + b"\r\n#\r\n") * 20, "HTTP, or broke off"),
    "one extension": (CHUNKED + b"1;", b"a" * 100_000, "HTTP, or broke off"),
    "headers": (OK, b"X-A: b\r\n" * 5000, "HTTP, or broke off"),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 5000, "HTTP, or broke off"),
}


@contextlib.asynccontextmanager
async def sending(
    head: bytes,
    endless: bytes = b"",
    context: ssl.SSLContext | None = None,
    ended: asyncio.Event | None = None,
) -> AsyncIterator[str]:
    """A server that answers every request with a head, and after it with the same bytes without end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head)
                while endless:
                    writer.write(endless)
                    await writer.drain()
                    # Over TLS, drain neither waits nor raises until the loop has seen the client go.
                    await asyncio.sleep(0)
        if ended is not None:
            ended.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    scheme = "http" if context is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
    finally:
        server.close()


def complete(page: bytes = PAGE) -> bytes:
    return OK + f"Content-Length: {len(page)}\r\n\r\n".encode() + page


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", ENDLESS)
async def test_what_never_ends_is_cut_off(name: str, scheme: str) -> None:
    """Long before the time-out, also over TLS, and the error says what it was."""
    head, endless, said = ENDLESS[name]
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with (
        sending(head, endless, context) as url,
        aiohttp.ClientSession(connector=wire.connector()) as session,
    ):
        with pytest.raises(exposition.ScrapeError, match=said):
            await exposition.fetch(session, url, "m", by=Access(insecure=True))


async def test_a_kept_connection_serves_many_pages() -> None:
    """What may come is counted from each request on, so the limit is none for a server that lives long."""
    page = PAGE + b"#" * 60_000
    async with (
        sending(complete(page)) as url,
        aiohttp.ClientSession(connector=wire.connector()) as session,
    ):
        for _ in range(20):
            assert (await exposition.fetch(session, url, "m"))[1] == len(page)


async def test_what_comes_after_a_page_ends_the_connection() -> None:
    """Nothing reads from a connection that waits for the next request, so nothing else would end it."""
    ended = asyncio.Event()
    async with (
        sending(complete(), b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, ended=ended) as url,
        aiohttp.ClientSession(connector=wire.connector()) as session,
    ):
        await exposition.fetch(session, url, "m")
        await ended.wait()


async def test_pages_that_cost_much_leave_time_and_places_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One namespace's costly pages rest after each, and its long ones leave memory to others."""
    monkeypatch.setattr(reading, "COSTLY_SECONDS", 0.0)
    monkeypatch.setattr(reading, "NOTICED_SECONDS", 0.0)
    monkeypatch.setattr(reading, "REST", 1e9)
    monkeypatch.setattr(reading, "SHARED_REST", 1e9)
    turns, order = reading.PageReader(), []

    async def parse(party: str) -> None:
        await turns.parsed(party, lambda _: order.append(party), "")

    greedy = [asyncio.create_task(parse("greedy")) for _ in range(20)]
    others = [asyncio.create_task(parse(f"other-{number}")) for number in range(20)]
    await asyncio.gather(*others)
    assert order.count("greedy") == 1
    for task in greedy:
        task.cancel()
    async with contextlib.AsyncExitStack() as held:
        for _ in range(reading.OWN_LONG_PAGES):
            await held.enter_async_context(turns.long_page("greedy"))
        third = asyncio.ensure_future(held.enter_async_context(turns.long_page("greedy")))
        await held.enter_async_context(turns.long_page("other"))
        assert not third.done()
        third.cancel()


async def test_a_namespace_that_rests_does_not_keep_the_thread_of_long_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its second long page waits for its rest, and another namespace's is parsed meanwhile."""
    monkeypatch.setattr(reading, "COSTLY_SECONDS", 0.0)
    monkeypatch.setattr(reading, "REST", 1e9)
    monkeypatch.setattr(reading, "SHARED_REST", 1e9)
    turns, text = reading.PageReader(), "#" * (reading.INLINE_CHARACTERS + 1)
    await turns.parsed("third", len, "")
    greedy = [asyncio.create_task(turns.parsed("greedy", len, text)) for _ in range(2)]
    done, waiting = await asyncio.wait(greedy, return_when="FIRST_COMPLETED")
    assert len(done) == 1
    assert await turns.parsed("other", len, text) == len(text)
    (last,) = waiting
    assert not last.done()
    last.cancel()


async def test_the_only_namespace_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages of a large installation in one namespace are read, however much each costs."""
    monkeypatch.setattr(reading, "COSTLY_SECONDS", 0.0)
    monkeypatch.setattr(reading, "REST", 1e9)
    monkeypatch.setattr(reading, "SHARED_REST", 1e9)
    turns, long = reading.PageReader(), "#" * (reading.INLINE_CHARACTERS + 1)
    for text in ["#", "#", long, long, "#"]:
        assert await asyncio.wait_for(turns.parsed("only", len, text), 300.0) == len(text)


async def test_a_namespace_rests_long_only_while_another_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a namespace whose pages are read already, it rests for as long as its page took, at most."""
    monkeypatch.setattr(reading, "REST", 1e9)
    turns = reading.PageReader()
    order: list[str] = []
    await turns.parsed("other", len, "")
    monkeypatch.setattr(reading, "COSTLY_SECONDS", 0.0)
    for _ in range(3):
        await asyncio.wait_for(turns.parsed("large", order.append, "#"), 300.0)
    assert len(order) == 3


async def test_one_namespace_leaves_scrapes_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its pods do not answer, another namespace's pod is scraped at once."""
    monkeypatch.setattr("adapter.collector.pod_scraper.MAX_CONCURRENT", 8)
    monkeypatch.setattr("adapter.collector.pod_scraper.NAMESPACE_CONCURRENT", 4)
    read = asyncio.Event()
    async with (
        sending(b"") as silent,
        sending(complete()) as url,
        aiohttp.ClientSession(connector=wire.connector()) as session,
    ):
        scraper = PodScraper(session, Clock(), interval=1.0)
        slow = [ScrapeJob(f"greedy/{n}", f"{silent}/{n}", "m") for n in range(20)]
        jobs = [*slow, ScrapeJob("other/v", url, "m")]
        scraping = asyncio.create_task(scraper.scrape(jobs, lambda *_: read.set()))
        await read.wait()
        assert len(scraper.failing("greedy/0", [f"{silent}/0"])) == 0  # its time is not over
        scraper.close()
        await scraping


async def test_who_waited_for_the_scrapes_of_others_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The variant that holds the slots used up its budget; that which waited for them did not."""
    monkeypatch.setattr("adapter.collector.pod_scraper.NAMESPACE_CONCURRENT", 1)
    monkeypatch.setattr("adapter.collector.pod_scraper.VARIANT_SECONDS", 0.5)
    async with (
        sending(b"") as silent,
        aiohttp.ClientSession(connector=wire.connector()) as session,
    ):
        scraper = PodScraper(session, Clock(), interval=1.0)
        jobs = [ScrapeJob(f"team/{name}", f"{silent}/{name}", "m") for name in ("slow", "waits")]
        await scraper.scrape(jobs, lambda *_: None)
        await asyncio.gather(*scraper._under_way.values())
        assert "of one variant" in scraper.error("team/slow", f"{silent}/slow")
        assert "1 pods of one namespace" in scraper.error("team/waits", f"{silent}/waits")


async def test_a_page_of_many_series_is_refused() -> None:
    """A page of a server has some hundred series that are read."""
    line = b'vllm:num_requests_running{model_name="m"} 1\n'
    async with (
        sending(complete(PAGE + line * 21_000)) as url,
        aiohttp.ClientSession(connector=wire.connector()) as session,
    ):
        with pytest.raises(exposition.ScrapeError, match="more than 20000 lines of series"):
            await exposition.fetch(session, url, "m")


async def test_a_picker_with_ever_new_models_and_pods_takes_no_memory() -> None:
    """Of many models those of variants are kept, and of the pods too; few are kept in any case."""
    known = Known(models={"m"}, pods={("team-a", "v-0")})
    pages = [
        "".join(
            f'inference_objective_request_total{{model_name="{model}"}} {turn}\n'
            f'llm_d_epp_inflight_requests{{endpoint_name="{pod}"}} 1\n'
            for model, pod in [("m", "v-0"), *((f"x{turn}-{n}", f"p{n}") for n in range(1000))]
        ).encode()
        for turn in range(3)
    ]
    async with aiohttp.ClientSession(connector=wire.connector()) as session:
        for page in pages:
            async with sending(complete(page)) as url:
                gateways = Gateways(session, [("team-a", url)], known=lambda: known)
                await gateways.demand()
                (scraped,) = gateways._scraped.values()
                assert scraped.counts.keys() == {"m"}
                assert gateways.load.in_flight.keys() == {("team-a", "v-0")}
        few = b'inference_objective_request_total{model_name="a"} 1\n' * (MODELS - 1)
        async with sending(complete(few)) as url:
            gateways = Gateways(session, [("team-a", url)], known=lambda: known)
            await gateways.demand()
            (scraped,) = gateways._scraped.values()
            assert scraped.counts.keys() == {"a"}
