"""One engine of a data-parallel server that hangs, while the page goes on with the others."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from adapter.collector import exposition, model_servers, promql
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import lines, ranks, spelling
from adapter.collector.servers.plausibility import Assessment, Plausibility
from tests.adapter.collector.servers.test_doubtful_pages import observed, served


def engines(at: int, *, stands_from: int, running: float = 3, waiting: float = 40) -> str:
    """Two engines that finish 10 requests a minute each; from a page on the second one stands still."""
    second = min(at, stands_from)
    stuck = at >= stands_from
    return served(100 + 2.5 * at, running=1 + at % 2) + served(
        100 + 2.5 * second,
        running=running if stuck else 1 + at % 2,
        waiting=waiting if stuck else 0,
    ).replace('engine="0"', 'engine="1"')


async def test_an_engine_that_hangs_beside_others_is_named_and_the_load_a_part() -> None:
    """Within two scrapes; what the others serve goes on to count, and what it keeps is no queue."""
    seen = await observed(12, a=lambda at: engines(at, stands_from=5))
    assert seen[4].complete
    assert not seen[4].problem
    for observation in seen[7:]:
        assert not observation.complete
        assert "engine 1 of this server stands still with 43 requests in service" in (
            observation.problem
        )
        assert observation.usable
        assert observation.traffic is not None
        assert observation.traffic.waiting == 0
    last = seen[-1].traffic
    assert last is not None
    assert 8 <= 60 * last.arrival_rate_rps <= 25


async def test_an_engine_without_work_does_not_hang() -> None:
    """The other one may serve alone."""
    seen = await observed(12, a=lambda at: engines(at, stands_from=5, running=0, waiting=0))
    assert all(observation.complete for observation in seen[1:])


def test_engines_that_a_page_no_longer_shows_are_forgotten() -> None:
    """Whoever shows other engines at each page takes no more memory for that; one that comes back is new."""
    standing = ranks.Standing()
    hung = functools.partial(standing.hung, last=0.0, pages=2, seconds=1.0)
    one, other = (ranks.Rank(name, 1.0, 0.0, (1.0,)) for name in ("0", "1"))
    assert hung([one], [one], now=5.0) == []
    assert hung([other], [other], now=10.0) == []
    assert hung([one], [one], now=15.0) == []
    assert hung([one], [one], now=20.0) == [one]


def through_prometheus(text: str, at: float) -> list[Sample]:
    """A page as the answer to the query of the fleet has it: a few series by engine, sums of the rest."""
    largest = model_servers.RANKED | model_servers.LARGEST_OF
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for name, labels, value in lines.read(text, spelling.Names()):
        kept = {"__name__": name, "model_name": labels["model_name"], "pod": "p", "namespace": "n"}
        if name in ranks.NUMBERS:
            kept |= {"engine": labels["engine"], "quantity": "engine"}
        elif name in largest:
            kept |= {"dp_rank": labels.get("dp_rank", ""), "quantity": "largest"}
        key = tuple(sorted(kept.items()))
        sums[key] = sums.get(key, 0.0) + value
    samples = [
        Sample(labels=dict(key), value=value, evaluated_at=at) for key, value in sums.items()
    ]
    times = {"model_name": "m", "pod": "p", "namespace": "n", "quantity": "sampled_at"}
    return [*samples, Sample(labels=times, value=at, evaluated_at=at)]


def test_an_engine_that_hangs_is_seen_through_prometheus_too() -> None:
    """Within two scrapes, as from the page itself; the one beside it is not."""
    plausibility = Plausibility(interval=15.0)
    seen: list[Assessment] = []
    for at in range(9):
        text = engines(at, stands_from=5)
        (pod,) = promql.pods(through_prometheus(text, 15.0 * at))
        assert pod.page is not None
        assert len(pod.page.ranks) == 2
        seen.append(plausibility.assess("p", pod.page, now=15.0 * at, started=None))
    assert not any(item.hung for item in seen[:7])
    assert [[rank.name for rank in item.hung] for item in seen[7:]] == [["1"], ["1"]]
    assert "engine 1 of this server stands still with 43 requests" in plausibility.part("p")


def ranks_of_sglang(at: int, *, stands_from: int) -> str:
    """Two ranks of one replica; from a page on the second one stands still with 43 requests."""
    second, stuck = min(at, stands_from), at >= stands_from
    lines_of = {
        "sglang:num_requests_total": (("", 5.0 * at),),
        "sglang:time_to_first_token_seconds_sum": (("", 0.5 * at),),
        "sglang:time_to_first_token_seconds_count": (("", 5.0 * at),),
        "sglang:num_running_reqs": (("0", 2.0), ("1", 3.0)),
        "sglang:num_queue_reqs": (("0", 0.0), ("1", 40.0 if stuck else 0.0)),
        "sglang:token_usage": (("0", 0.25), ("1", 0.25)),
        "sglang:gen_throughput": (("0", 290.0 + at), ("1", 180.0 + second)),
    }
    return "".join(
        f'{name}{{model_name="m"' + (f',dp_rank="{rank}"' if rank else "") + f"}} {value}\n"
        for name, values in lines_of.items()
        for rank, value in values
    )


@pytest.mark.parametrize("origin", ["direct", "prometheus"])
def test_a_rank_of_sglang_that_hangs_is_named(origin: str) -> None:
    """By its throughput, the only number of a rank that is another one each time; the other rank goes on.

    Later than one of vLLM, whose gauges are never those of requests that ended.
    """
    plausibility = Plausibility(interval=15.0)
    seen: list[Assessment] = []
    for at in range(10):
        text = ranks_of_sglang(at, stands_from=5)
        page: PodMetrics | None = exposition.parse(text, "m", "p")
        if origin == "prometheus":
            (pod,) = promql.pods(through_prometheus(text, 15.0 * at))
            page = pod.page
        assert page is not None
        assert (page.running, page.waiting) == (5.0, 40.0 if at >= 5 else 0.0)
        seen.append(plausibility.assess("p", page, now=15.0 * at, started=None))
    assert not any(item.hung for item in seen[:8])
    assert [[rank.name for rank in item.hung] for item in seen[8:]] == [["1"], ["1"]]
    assert "engine 1 of this server stands still with 43 requests" in plausibility.part("p")


def idle_sglang(seconds: float, *, several: bool) -> str:
    """Gauges of the last steps, until an idle SGLang sets them; of several ranks the other one serves."""
    last = seconds < 31
    own = (3.0 if last else 0.0, 180.0 if last else 0.0)
    ended = 5.0 * seconds if several else 50.0
    gauges = {"0": (2.0, 290.0 + seconds), "1": own} if several else {"": own}
    text = "".join(
        f'sglang:{name}{{model_name="m"}} {value}\n'
        for name, value in {
            "num_requests_total": ended,
            "time_to_first_token_seconds_sum": 0.1 * ended,
            "time_to_first_token_seconds_count": ended,
            "inter_token_latency_seconds_sum": ended,
            "inter_token_latency_seconds_count": 50 * ended,
            "generation_tokens_total": 50 * ended,
        }.items()
    )
    for rank, values in gauges.items():
        label = f',dp_rank="{rank}"' if rank else ""
        names = ("num_running_reqs", "gen_throughput")
        for name, value in (*zip(names, values, strict=True), ("num_queue_reqs", 0.0)):
            text += f'sglang:{name}{{model_name="m"{label}}} {value}\n'
    return text


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("interval", [5, 10, 15])
def test_an_idle_sglang_does_not_hang(interval: int, *, several: bool) -> None:
    """It shows requests for half a minute after the last one has ended; until then it says nothing."""
    plausibility = Plausibility(interval=interval)
    for at in range(60 // interval):
        seconds = at * interval + 0.5
        page = exposition.parse(idle_sglang(seconds, several=several), "m", "p")
        assert page.running >= 2 or seconds > 31
        assessment = plausibility.assess("p", page, now=seconds, started=None)
        assert replace(assessment, silent=False) == Assessment()
    assert not assessment.silent
