"""Pages of servers that work, of unusual requests: none of them is doubted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.plausibility import Plausibility
from tests.adapter.collector.servers.test_plausibility import page as plain

INTERVAL, BATCH = 10.0, 64.0


def said(pages: Iterable[PodMetrics], *, batch: float = BATCH) -> list[str]:
    """What is wrong with these pages, one every scrape cycle, or is not counted."""
    checks = Plausibility(interval=INTERVAL)
    doubts = []
    for at, one in enumerate(pages):
        verdict = checks.assess("a", one, now=at * INTERVAL, started=one.started_at, batch=batch)
        doubts.append(verdict.problem or checks.note("a"))
    return [text for text in doubts if text]


def sglang(
    ended: float, *, tokens: float, timed: float, running: float = 2, begun: float | None = None
) -> PodMetrics:
    """A page of SGLang: tokens of requests that ended, and those that were timed after first ones."""
    return replace(
        plain(ended, running=running),
        prompt_tokens=(100 * ended, ended),
        generation_tokens=(tokens, ended),
        ttft=(0.05 * ended, ended if begun is None else begun),
        itl=(0.02 * timed, timed),
        idle_seconds=40.0,
    )


def tgi(
    ended: float,
    *,
    tokens: float | None = None,
    running: float = 2,
    rejected: float = 0,
    waiting: float = 0,
) -> PodMetrics:
    """A page of TGI, which counts prompts as they come and times no tokens."""
    came = ended + running + waiting
    return replace(
        plain(ended, running=running, waiting=waiting),
        prompt_tokens=(100 * came, came),
        generation_tokens=(178 * ended if tokens is None else tokens, ended),
        ttft=(0.0, 0.0),
        itl=(0.0, 0.0),
        rejected=rejected,
    )


def vllm(ended: float, *, timed: float, generated: float, start: float = -100.0) -> PodMetrics:
    """A page of vLLM."""
    return replace(
        plain(ended, running=2, started_at=start),
        generation_tokens=(0.95 * generated, ended),
        itl=(0.02 * timed, timed),
        generated=generated,
    )


def test_one_request_may_be_hundreds_of_times_as_long() -> None:
    """It was in service, and timed, for long before the pages on which it ends."""
    pages = []
    for at in range(60):
        ended, done = 5.0 * at, at >= 50
        of_it = 20000.0 * min(at, 50) / 50
        tokens = 20 * ended + (of_it if done else 0.0)
        pages.append(
            sglang(
                ended + done, tokens=tokens, timed=19 * ended + of_it, running=2 - done,
                begun=ended + 1,
            )
        )  # fmt: skip
    assert said(pages) == []


@pytest.mark.parametrize("later", [300, 60, 40])
def test_tokens_of_requests_that_do_not_stream_come_by_fifties(later: int) -> None:
    """SGLang times none of the first fifty; answers may become shorter than that."""
    ended = tokens = timed = 0.0
    pages = []
    for at in range(60):
        length = 300 if at < 30 else later
        ended += 100
        tokens += 100 * length
        timed += 100 * max(length - 50, 0)
        pages.append(sglang(ended, tokens=tokens, timed=timed, running=20))
    assert said(pages) == []


@pytest.mark.parametrize("every", [2, 6, 12])
def test_bursts_that_a_late_gauge_misses_are_no_first_tokens_of_before(every: int) -> None:
    """Each page that falls on a burst has its first tokens, and none of its requests in service yet."""
    pages, begun = [], 1000.0
    for at in range(120):
        begun += 5.0 * (at % every == 0)
        ended = begun - 5.0 * (at % every == 0)
        one = sglang(ended, tokens=100 * ended, timed=99 * ended, running=0)
        pages.append(replace(one, ttft=(0.05 * begun, begun)))
    assert said(pages) == []


@pytest.mark.parametrize("every", [4, 6, 12])
def test_those_of_a_burst_that_a_late_gauge_misses_ended_after_they_began(every: int) -> None:
    """Also where the first page that is compared is the one on which they had begun."""
    pages, begun, timed = [], 1000.0, 99000.0
    for at in range(120):
        begun += 20.0 * (at % every == 0)
        timed += 20.0 * (5 * (at % every == 0) + 94 * (at % every == 1))
        ended = begun - 20.0 * (at % every == 0)
        one = sglang(ended, tokens=100 * ended, timed=timed, running=0)
        pages.append(replace(one, ttft=(0.05 * begun, begun)))
    assert said(pages) == []


def test_errors_and_clients_that_go_away_are_no_first_tokens_of_before() -> None:
    """Each a tenth of the requests, by chance: the ones end without a first token, the others do not end."""
    random = np.random.default_rng(5)
    errors, left = (random.poisson(20, size=400).cumsum() for _ in range(2))
    pages = []
    for at in range(400):
        ended, begun = 200.0 * at + errors[at], 200.0 * at + left[at]
        one = sglang(ended, tokens=100 * 200.0 * at, timed=99 * begun, running=0)
        pages.append(replace(one, ttft=(0.05 * begun, begun)))
    assert said(pages) == []


def test_copies_before_a_quiet_night_leave_no_part() -> None:
    """A long request stood on the first pages; what came since is not known until the next page alone."""
    checks = Plausibility(interval=INTERVAL)
    pages = [tgi(100.0, running=1)] * 2 + [tgi(104.0, running=0)] * 10
    parts = []
    for at, one in enumerate(pages):
        checks.assess("a", one, now=at * INTERVAL, started=None, batch=BATCH)
        parts.append(bool(checks.part("a")))
    assert parts == [False, False, True, *[False] * 9]


def test_requests_without_output_tokens_are_no_contradiction() -> None:
    """A client scores prompts for some minutes, or all that wait are given up."""
    pages = [sglang(5.0 * at, tokens=890.0 * at, timed=885.0 * at) for at in range(20)]
    last = pages[-1]
    pages += [
        sglang(last.finished + 50.0 * at, tokens=890.0 * 19, timed=885.0 * 19 + 500 * (at > 0))
        for at in range(20)
    ]
    assert said(pages) == []


def test_a_restart_is_not_compared_over_pages() -> None:
    """Before it speculative decoding gave three tokens a step, after it fewer."""
    pages = [vllm(2.0 * at, timed=200.0 * at, generated=600.0 * at) for at in range(10)]
    pages += [
        vllm(3.0 * at, timed=500.0 * at, generated=600.0 * at, start=100.0) for at in range(1, 20)
    ]
    assert said(pages) == []


def test_requests_that_end_in_an_error_may_be_timed_once_more() -> None:
    """Every tenth ends without a token in its last step."""
    pages = [
        vllm(20.0 * at, timed=3540.0 * at + 2.0 * at, generated=3560.0 * at) for at in range(30)
    ]
    assert said(pages) == []


def test_nine_of_ten_requests_may_end_in_an_error() -> None:
    """Before their first token: both counts of requests that ended say so."""
    pages = []
    for at in range(30):
        ended, served = 20.0 * at, 2.0 * at
        one = vllm(ended, timed=177 * served, generated=178 * served)
        pages.append(replace(one, ttft=(0.05 * served, served)))
    assert said(pages) == []


def test_requests_that_ended_with_tokens_that_nobody_generated_are_no_errors() -> None:
    """Twice as many ended, with lengths of as many: one event that is counted twice, after a long time."""
    pages = []
    for at in range(30):
        served = 10_000.0 + 5.0 * at
        ended = served + 5.0 * max(at - 12, 0)
        one = vllm(ended, timed=177 * served, generated=178 * served)
        tokens = (178 * ended, ended)
        pages.append(replace(one, ttft=(0.05 * served, served), generation_tokens=tokens))
    doubts = said(pages)
    assert doubts
    assert "requests that ended for" in doubts[0]


def test_requests_that_end_together_are_on_some_lines_of_a_page_first() -> None:
    """Several processes write it: its parts are of different moments."""
    pages = [vllm(1.0, timed=8000.0 + at, generated=8010.0 + at) for at in range(6)]
    pages = [replace(one, started_at=None, running=8) for one in pages]
    pages[3] = replace(pages[3], generation_tokens=(8000.0, 9.0), prompt_tokens=(900.0, 9.0))
    pages[4:] = [
        replace(
            one, finished=9.0, generation_tokens=(8000.0, 9.0), prompt_tokens=(900.0, 9.0),
            running=0,
        )
        for one in pages[4:]
    ]  # fmt: skip
    pages = [replace(one, ttft=(0.5, 9.0)) for one in pages]
    assert said(pages) == []


def test_lengths_of_requests_that_were_given_up_may_be_counted() -> None:
    """Triton counts these as failed, and not among those that it served."""
    pages = []
    for at in range(30):
        ended, given_up = 20.0 * at, 6.0 * max(at - 10, 0)
        counted = ended + given_up
        one = plain(ended, running=4)
        pages.append(
            replace(
                one, generation_tokens=(178 * counted, counted), itl=(0.0, 0.0),
                ttft=(0.05 * counted, counted),
            )
        )  # fmt: skip
    assert said(pages) == []


def test_prompts_that_are_counted_as_they_come_are_no_long_requests() -> None:
    """Many come at once while one ends; the KV cache holds 20 of them."""
    pages = [replace(tgi(5.0 * at), kv_tokens=6000.0) for at in range(12)]
    burst = [tgi(55.0 + at, running=64, waiting=100) for at in range(1, 6)]
    pages += [replace(one, kv_tokens=6000.0) for one in burst]
    assert said(pages) == []


def test_requests_are_turned_away_at_a_limit_below_the_batch_or_within_seconds() -> None:
    """A limit on requests in service may be below the profile's batch; a queue fills and empties."""
    below = [
        tgi(40.0 * at, running=32 if at > 5 else 10, rejected=5000.0 * max(at - 5, 0))
        for at in range(15)
    ]
    assert said(below) == []
    burst = [tgi(5.0 * at + 160 * (at > 5), rejected=1800.0 * (at > 5)) for at in range(15)]
    assert said(burst) == []


def test_long_answers_that_come_and_end_between_two_pages_are_not_too_fast() -> None:
    """A server that classifies gets a batch of chats: 500 requests of 300 tokens within ten seconds."""
    pages = [tgi(5.0 * at, tokens=5.0 * at, running=at % 2) for at in range(20)]
    pages += [
        tgi(5.0 * at + 500, tokens=5.0 * at + 150_000.0, running=at % 2) for at in range(20, 30)
    ]
    assert said(pages, batch=256.0) == []


@pytest.mark.parametrize("timed", [True, False])
def test_load_that_jumps_counts_at_once_without_a_profile(*, timed: bool) -> None:
    """Nothing says how large a batch may be, and the gauge does: 200 in service."""
    pages = [plain(5.0 * at, running=2) if timed else tgi(5.0 * at) for at in range(12)]
    ended = pages[-1].finished
    for at in range(1, 6):
        if timed:
            gaps = 177 * ended + 200 * at * INTERVAL / 0.0214
            one = plain(ended + at, running=200)
            begun = ended + at + 200
            pages.append(replace(one, itl=(0.0214 * gaps, gaps), ttft=(0.05 * begun, begun)))
        else:
            pages.append(tgi(ended + at, running=200))
    assert said(pages, batch=0.0) == []


def test_what_contradicts_for_long_is_how_a_server_counts() -> None:
    """Its numbers are left out for some minutes, and then used: its target would be held for ever."""
    pages = [
        replace(one, generation_tokens=(178 * 0.8 * one.finished, 0.8 * one.finished))
        for one in (plain(20.0 * at, running=4) for at in range(80))
    ]
    checks = Plausibility(interval=INTERVAL)
    doubts = [
        checks.assess("a", one, now=at * INTERVAL, started=None, batch=BATCH).problem
        for at, one in enumerate(pages)
    ]
    assert any(doubts[:20])
    assert not any(doubts[60:])


def test_a_server_whose_kv_cache_fills_is_not_silent() -> None:
    """Triton counts nothing of a request of 20,000 tokens while it lasts, 400 s after those of 4 s."""
    checks = Plausibility(interval=INTERVAL)
    silent = []
    for at in range(60):
        ended = 5.0 * min(at, 20)
        one = plain(ended, running=2 if at < 20 else 1)
        one = replace(one, itl=(0.0, 0.0), kv_cache=0.2 if at < 20 else 0.01 * (at - 19))
        verdict = checks.assess("a", one, now=at * INTERVAL, started=None, batch=BATCH)
        silent.append(verdict.silent or bool(verdict.problem))
    assert not any(silent)


def test_a_long_prompt_does_not_hang_a_server() -> None:
    """Half a million tokens take a minute, in which the KV cache fills and nothing else moves."""
    pages = [
        replace(vllm(5.0 * at, timed=885.0 * at, generated=890.0 * at), kv_cache=0.01)
        for at in range(10)
    ]
    prefill = replace(pages[-1], running=1)
    pages += [replace(prefill, kv_cache=0.1 * (at + 1)) for at in range(6)]
    assert said(pages) == []


def impatient(at: int, *, of_nobody: float = 0.0, tokens_a_step: float = 1.0) -> PodMetrics:
    """Fifty clients leave vLLM after ten tokens for each that stays, from the fifth page on."""
    stay, leave = 5.0 * at, 50.0 * max(at - 5, 0)
    begun = stay + leave
    steps = (178 * stay + 10 * leave - begun) / tokens_a_step
    one = vllm(stay, timed=steps, generated=begun + tokens_a_step * steps)
    shown = begun + of_nobody * max(at - 5, 0)
    return replace(one, generation_tokens=(178 * stay, stay), ttft=(0.1 * shown, shown))


def test_clients_that_give_up_in_dozens_are_no_contradiction() -> None:
    """Nothing else ends them on its page, but each first token was generated; its target must follow them."""
    assert said(impatient(at) for at in range(30)) == []
    (first, *_) = said(impatient(at, of_nobody=50.0) for at in range(30))
    assert "first tokens for" in first
    # Where a step gives several tokens, those of first ones are not known; their prompts are.
    (first, *_) = said(impatient(at, tokens_a_step=3.0) for at in range(30))
    assert "first tokens for" in first


def test_clients_that_give_up_on_speculative_decoding_are_no_contradiction() -> None:
    """As many prompts were prefilled as there are first tokens."""

    def page(at: int, *, of_nobody: float = 0.0) -> PodMetrics:
        one = impatient(at, tokens_a_step=3.0)
        begun = one.ttft[1] + of_nobody * max(at - 5, 0)
        return replace(one, cached_tokens=(0.0, 100 * one.ttft[1]), ttft=(0.1 * begun, begun))

    assert said(page(at) for at in range(60)) == []
    (first, *_) = said(page(at, of_nobody=300.0) for at in range(30))
    assert "first tokens for" in first


@pytest.mark.parametrize("more", [0.8, 1.25])
def test_requests_that_ended_and_those_with_lengths_are_as_many(more: float) -> None:
    """TGI and SGLang count both at once, so that the one that lags or runs ahead is seen."""
    for one in (tgi, lambda ended: sglang(ended, tokens=178 * ended, timed=177 * ended)):
        pages = [one(5.0 * at) for at in range(24)]
        first = pages[12].finished
        pages[12:] = [replace(p, finished=first + more * (p.finished - first)) for p in pages[12:]]
        doubts = said(pages)
        assert doubts
        assert "has lengths of" in doubts[0]


def test_gaps_that_prompts_of_others_made_are_as_long_as_these() -> None:
    """SGLang computes forty long prompts first: the next token of each ends a gap of up to four minutes."""
    pages = [sglang(5.0 * at, tokens=890.0 * at, timed=885.0 * at) for at in range(12)]
    last = pages[-1]
    for at in range(1, 25):
        begun = last.ttft[1] + 40 * at / 24
        one = replace(last, running=2 + round(40 * at / 24), ttft=(2.75 + 4 * at, begun))
        pages.append(replace(one, kv_cache=0.02 * at))
    for at in range(1, 6):
        one = replace(pages[35], kv_cache=0.5)
        timed, gaps = last.itl
        pages.append(replace(one, itl=(timed + 40 * 120 + 400 * at, gaps + 4000 * at)))
    assert said(pages) == []


def test_a_server_that_takes_up_one_long_prompt_after_another_does_not_hang() -> None:
    """TGI counts nothing of forty prompts of six seconds each, but the batch grows."""
    pages = [tgi(5.0 * at) for at in range(12)]
    pages += [tgi(55.0, running=2 + at, waiting=40 - at) for at in range(1, 41)]
    assert len(said(pages)) <= 1  # whether the first is a jump is not known


def test_prompts_that_fill_the_kv_cache_leave_the_queue_counted() -> None:
    """No token comes between two pages while long prompts are computed in parts, and others wait for them."""
    pages = [
        replace(sglang(5.0 * at, tokens=890.0 * at, timed=885.0 * at), kv_cache=0.1)
        for at in range(12)
    ]
    pages += [replace(pages[-1], running=8, waiting=20, kv_cache=0.1 + 0.05 * at) for at in (1, 2)]
    assert not [text for text in said(pages) if "nothing moved" in text]


def test_output_tokens_ahead_of_those_that_were_timed_are_seen_at_once() -> None:
    """A server timed all tokens until now; a quarter more of those that ended than of these are wrong."""
    pages = [sglang(5.0 * at, tokens=890.0 * at, timed=885.0 * at) for at in range(24)]
    pages = pages[:16] + [
        replace(one, generation_tokens=(890.0 * 15 + 1112.0 * at, one.finished))
        for at, one in enumerate(pages[16:], 1)
    ]
    doubts = said(pages)
    assert len(doubts) == 8
    assert all("output tokens where 890 were timed" in text for text in doubts)


def test_clients_that_stop_to_stream_are_no_output_tokens_ahead() -> None:
    """None of the first fifty tokens is timed then, and the first one is as late as they take."""
    pages = [sglang(5.0 * at, tokens=890.0 * at, timed=885.0 * at, running=4) for at in range(16)]
    last = pages[-1]
    for at in range(1, 25):
        tokens, gaps = last.generation_tokens[0] + 890.0 * at, last.itl[1] + 640.0 * at
        one = sglang(75 + 5.0 * at, tokens=tokens, timed=gaps, running=4)
        pages.append(replace(one, ttft=(3.75 + 5.25 * at, one.finished)))
    assert said(pages) == []
