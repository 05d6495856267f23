"""A queue in which nobody waits is not counted, and one in which somebody does is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.gauges.queue import Queue
from adapter.collector.servers.plausibility import Plausibility
from adapter.collector.windows import growth
from adapter.collector.windows.growth import Sample

SECONDS, BATCH = 10.0, 8.0


def page(
    at: int, waiting: float, *, ttft: float = 0.1, running: float = 2.0, kv: float | None = 0.2
) -> PodMetrics:
    """A page of a server that takes up five requests between two pages."""
    done = 5.0 * at
    return PodMetrics(
        finished=done, running=running, waiting=waiting, prompt_tokens=(0.0, 0.0),
        generation_tokens=(100 * done, done), ttft=(ttft * done, done), itl=(2.0 * done, 100 * done),
        kv_cache=kv,
    )  # fmt: skip


def left(pages: Iterable[PodMetrics], *, batch: float = BATCH) -> list[float]:
    """What each page after the first has in its gauge and not in its queue, as far as is known."""
    queue, (before, *others) = Queue(), pages
    amounts = []
    for each in others:
        queue.note(before, each, seconds=SECONDS, batch=batch)
        amounts.append(queue.left + queue.doubted)
        before = each
    return amounts


def test_what_stands_while_first_tokens_come_at_once_is_no_queue() -> None:
    """A jump beyond a batch and 16 is none from its first page on, less once the server's pace is known."""
    assert left(page(at, 60.0 if at else 0.0) for at in range(5)) == [60.0] * 4
    assert left(page(at, 10.0 * at) for at in range(6)) == [0.0, 0.0, 20.0, 40.0, 50.0]


def test_a_queue_of_less_than_a_batch_counts_at_once() -> None:
    """Prompts wait for their turn beside room too; counted a page later, they would look like a surge."""
    waits = [page(0, 0.0), page(1, 24.0, ttft=0.5), page(2, 24.0, ttft=4.0)]
    assert left(waits) == [0.0, 0.0]


def test_a_queue_that_counted_is_none_from_the_second_page_that_says_so() -> None:
    """One page may be read in the middle of a step."""
    waits = [page(0, 0.0), page(1, 60.0), page(2, 60.0, ttft=9.0)]
    stands = [replace(page(at, 60.0), ttft=(89.0 + 0.5 * at, 5.0 * at)) for at in range(3, 6)]
    assert left([*waits, *stands]) == [60.0, 0.0, 0.0, 60.0, 60.0]


def test_a_queue_beside_room_counts_where_no_first_token_comes() -> None:
    """After two pages: what keeps the server from taking up more may be a prefill that takes long."""
    long = [replace(page(1, 0.0 if at < 1 else 60.0), itl=(2.0 * at, at)) for at in range(5)]
    assert left(long) == [60.0, 60.0, 0.0, 0.0]


def of_several(
    queued: str,
    *,
    names: str = "abc",
    taken: float = 0.0,
    waits: bool = False,
    timed: bool = True,
    number: float = 16.0,
    moves: float = 0.0,
    begun: float = 0.0,
) -> list[float]:
    """What pod `a` has in its gauge and not in its queue at the fifth page and the two after it.

    Args:
        queued: pods at which requests wait from then on.
        names: the pods.
        taken: requests that pod `a` took into service beside the usual ones.
        waits: whether first tokens come late from the sixth page on.
        timed: whether pages have times to first token and latencies; TGI's have none, nor a KV cache.
        number: requests that wait at each of them.
        moves: requests by which the queue grows from each page to the next.
        begun: requests by which fewer than usual had a first token before the fifth page.

    """
    checks = Plausibility(interval=SECONDS)
    amounts = []
    for at in range(8):
        for name in names:
            waiting = number + moves * (at - 5) if at >= 5 and name in queued else 0.0
            running = 2.0 + (taken if at >= 5 and name == "a" else 0.0)
            one = page(at, waiting, running=running, ttft=3.0 if waits and at > 5 else 0.1)
            if begun and at >= 5:
                done = one.ttft[1] - begun
                one = replace(one, ttft=(0.1 * done, done), finished=one.finished - begun)
            if not timed:
                one = replace(one, ttft=(0.0, 0.0), itl=(0.0, 0.0), kv_cache=None)
            verdict = checks.assess(name, one, now=at * SECONDS, started=None, batch=16.0)
            if at >= 5 and name == "a":
                amounts.append(verdict.left)
    return amounts


def test_a_large_only_queue_of_several_servers_without_first_tokens_is_doubted() -> None:
    """Its server took up no more than before, and goes on; nothing says that any waits."""
    assert of_several("a", timed=False, number=60.0) == [60.0, 60.0, 60.0]


def test_a_queue_that_nothing_but_the_gauge_shows_is_doubted() -> None:
    """As many as ever were taken up and none waited, beside room: at one server or at all, of any length."""
    for queued in ("a", "abc"):
        for number in (8.0, 16.0, 60.0, 400.0):
            assert of_several(queued, number=number) == [number] * 3
            assert of_several(queued, number=number, timed=False) == [number] * 3


def test_an_only_queue_that_goes_on_to_grow_counts() -> None:
    """Its server is at a limit below the batch, and goes on as before; without first tokens that is all."""
    assert of_several("a", timed=False, moves=12.0) == [16.0, 28.0, 0.0]
    assert of_several("a", timed=False, number=100.0, moves=100.0) == [100.0, 200.0, 0.0]
    assert of_several("a", timed=False, moves=-2.0) == [16.0, 14.0, 12.0]


def test_queues_of_rising_load_count_at_once() -> None:
    """Their servers took up more, or were kept from it; others when first tokens have waited, or move."""
    assert of_several("a", taken=8.0)[0] == 0.0
    assert of_several("a", begun=5.0)[0] == 0.0
    assert of_several("a", number=4.0)[0] == 0.0
    assert of_several("a", waits=True)[1:] == [0.0, 0.0]
    assert of_several("a", waits=True, number=60.0)[1:] == [0.0, 0.0]
    assert of_several("abc", timed=False, number=60.0, moves=6.0)[1:] == [0.0, 0.0]
    assert of_several("a", taken=8.0, timed=False, number=60.0)[0] == 0.0


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        pytest.param({"ttft": 4.0}, BATCH, id="they-wait"),
        pytest.param({"running": 8.0}, BATCH, id="a-full-batch"),
        pytest.param({"kv": 0.9}, BATCH, id="a-full-cache"),
        pytest.param({"kv": None}, 0.0, id="nothing-says-how-full"),
    ],
)
def test_a_queue_that_may_be_one_counts(shape: dict[str, float | None], batch: float) -> None:
    """Where requests are served after a wait, or others may be preferred to them as there is no room."""
    assert set(left((page(at, 60.0, **shape) for at in range(6)), batch=batch)) == {0.0}  # type: ignore[arg-type] # of its arguments


def test_requests_whose_adapter_has_no_slot_count() -> None:
    """They wait beside room while those of other adapters are taken up at once; what left before stays."""
    waits = [replace(page(at, 10.0 * at), adapters_waiting=1.0) for at in range(6)]
    assert left(waits) == [0.0] * 5
    jumps = [replace(page(at, 60.0 if at else 0.0), adapters_waiting=1.0) for at in range(6)]
    assert left(jumps) == [0.0] * 5
    stands = [page(at, 60.0) for at in range(4)]
    more = [replace(page(at, 75.0), adapters_waiting=2.0) for at in range(4, 8)]
    assert left([*stands, *more]) == [0.0, 60.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    assert left([*waits, *(page(at, 50.0) for at in range(6, 9))])[-1] == 50.0


def test_a_queue_behind_it_counts() -> None:
    """What was found to be none stays none while others wait, until the gauge or the process is another."""
    stands = [page(at, 60.0) for at in range(4)]
    waits = [page(at, 75.0, ttft=9.0) for at in range(4, 6)]
    assert left([*stands, *waits]) == [0.0, 60.0, 60.0, 60.0, 60.0]
    assert left([*stands, page(4, 7.0)]) == [0.0, 60.0, 60.0, 7.0]
    assert left([*stands, page(0, 60.0)])[-1] == 0.0


def test_the_page_says_it() -> None:
    """With the number and what clears it; the page counts without it."""
    known = Plausibility(interval=SECONDS)
    for at in range(5):
        assessed = known.assess("e", page(at, 60.0), now=at * SECONDS, started=None, batch=BATCH)
    assert (assessed.problem, assessed.left) == ("", 60.0)
    assert known.note("e").startswith("its queue of 60 is not counted: first tokens come")
    assert "restart of the pod" in known.note("e")
    assert known.note("other") == ""


@pytest.mark.parametrize(
    ("before", "after", "queued"),
    [
        pytest.param(60.0, 0.0, 0.0, id="left-without-service"),
        pytest.param(8.0, 1.0, -7.0, id="taken-up"),
        pytest.param(0.0, 60.0, 60.0, id="came"),
    ],
)
def test_a_queue_that_clients_leave_is_no_less_load(
    before: float, after: float, queued: float
) -> None:
    """Who leaves it has finished or is in service; beyond that nothing was served, and arrivals go on."""
    grown = growth.growth_of("e", Sample(0.0, page(1, before)), page(2, after), SECONDS, None)
    assert grown.queued == queued
    assert grown.arrivals == 5.0 + queued
