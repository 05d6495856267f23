"""Gauges count no further than the prompts that came, at servers that count these as they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.gauges.admissions import Admissions
from tests.adapter.collector.servers.gauges.test_queue import page


def prompts(
    at: int, *, running: float = 2.0, waiting: float = 0.0, came: float = 0.0
) -> PodMetrics:
    """A page of TGI, which counts prompts as they come: `came` besides those that ended and two."""
    one = page(at, waiting, running=running, kv=None)
    counted = one.finished + 2.0 + came
    return replace(one, prompt_tokens=(100.0 * counted, counted), ttft=(0.0, 0.0), itl=(0.0, 0.0))


def beyond(pages: Iterable[PodMetrics]) -> list[tuple[bool, float, float]]:
    """Whether each page after the first says how many there can be, and what its two gauges have beyond."""
    admissions, (before, *others) = Admissions(), pages
    amounts = []
    for each in others:
        known = admissions.note(before, each)
        amounts.append((known, admissions.left, admissions.idle))
        before = each
    return amounts


def test_gauges_beyond_the_prompts_that_came_are_not_counted() -> None:
    """At servers that count them as they come: of any size, until the gauge is as before."""
    usual = [prompts(at) for at in range(5)]
    assert beyond(usual)[-1] == (True, 0.0, 0.0)
    queue = beyond([*usual, *(prompts(at, waiting=400.0) for at in range(5, 9)), prompts(9)])
    assert queue[4:] == [(True, 400.0, 0.0)] * 4 + [(True, 0.0, 0.0)]
    both = beyond([*usual, *(prompts(at, running=10.0, waiting=5.0) for at in range(5, 8))])
    assert both[4:] == [(True, 5.0, 8.0)] * 3


def test_requests_whose_prompts_came_count_at_once() -> None:
    """A queue or a batch of any size."""
    usual = [prompts(at) for at in range(5)]
    crowd = [prompts(at, running=30.0, waiting=400.0, came=428.0) for at in range(5, 8)]
    assert beyond([*usual, *crowd])[4:] == [(True, 0.0, 0.0)] * 3


@pytest.mark.parametrize("every", [2, 3, 8])
def test_prompts_that_are_computed_are_in_neither_gauge(every: int) -> None:
    """TGI takes them from its queue, and adds them to its batch once they are: thirty, then a crowd."""
    usual = [prompts(at, came=30.0, running=2.0 if at % every == 0 else 32.0) for at in range(40)]
    crowd = [prompts(40, came=130.0), prompts(41, came=130.0, running=132.0)]
    assert all((left, idle) == (0.0, 0.0) for _, left, idle in beyond([*usual, *crowd]))


def test_prompts_that_are_counted_as_requests_end_say_nothing() -> None:
    """Nor do those of a server whose first pages were read while it had no request."""
    assert not any(known for known, *_ in beyond(prompts(at, came=-2.0) for at in range(9)))
    assert not any(known for known, *_ in beyond(prompts(at, running=0.0) for at in range(9)))
