"""No regular expression of the programs takes more than linear time, whatever text it is used on."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Mapping

import pytest

from adapter.collector.servers import spelling
from adapter.controller.estimates import prior
from tests.fuzz import patterns

FEW, SHORT, LONG = 24, 1024, 8192
"""Characters of the texts: exponential time shows with few, polynomial time with many."""

BOUNDED: Mapping[str, int] = {
    "adapter.collector.servers.spelling._FORM": spelling.LONGEST_NAME,
    "adapter.controller.estimates.prior._COUNTED": prior.LONGEST_NAME,
    # Names of containers and of their ports, which the API server bounds.
    "adapter.resources.serving.ports._BESIDE": 63,
    "adapter.resources.serving.ports.OF_METRICS": 63,
    # Used on what `_PLAIN` has matched: labels one after the other.
    "adapter.collector.servers.lines._PLAIN_LABEL": 0,
}
"""Most characters of the texts of patterns that are not linear, where something bounds them."""

USED = tuple(patterns.used())


def seconds(item: patterns.Used, text: str) -> float:
    """CPU seconds of a search: the least of two, for whatever came in between is in one of them only."""
    gc.disable()
    try:
        return min(_once(item, text) for _ in range(2))
    finally:
        gc.enable()


def _once(item: patterns.Used, text: str) -> float:
    started = time.process_time()
    item.run(text)
    return time.process_time() - started


def grows_faster(item: patterns.Used, longest: int) -> str:
    """A text for which the time grows faster than its length, shortened; empty without any."""
    shorts = patterns.attacks(item.pattern, min(SHORT, longest), seed=1)
    few = patterns.attacks(item.pattern, FEW, seed=1)
    for tiny, short, long in zip(
        few, shorts, patterns.attacks(item.pattern, min(LONG, longest), seed=1), strict=True
    ):
        if seconds(item, tiny) > 0.01:
            return tiny
        base = max(seconds(item, short), 0.0006)
        if base > 0.02 or seconds(item, long) > 4 * (LONG / SHORT) * base:
            return short[:80]
    return ""


@pytest.mark.parametrize("item", USED, ids=[f"{item}-{at}" for at, item in enumerate(USED)])
def test_time_grows_with_the_text_and_no_faster(item: patterns.Used) -> None:
    """Eight times the text takes about eight times as long; it would be 64 times in quadratic time."""
    assert grows_faster(item, BOUNDED.get(str(item), LONG)) == ""


@pytest.mark.parametrize(
    ("form", "function"),
    [
        (r"(a|a)*b", "fullmatch"),
        (r"\s+x", "search"),
        (r".*=.*x", "search"),
        (r"(\w+\.?)+", "fullmatch"),
    ],
)
def test_what_goes_back_and_forth_is_noticed(form: str, function: str) -> None:
    """Exponential and quadratic patterns."""
    item = patterns.Used("m", 1, "", re.compile(form), (function,))
    assert grows_faster(item, LONG)


def test_all_patterns_are_looked_at() -> None:
    """As many calls of `re` as the source has."""
    calls = sum(
        len(re.findall(rf"\bre\.(?:{'|'.join(patterns.FUNCTIONS)})\(", path.read_text()))
        for package in patterns.PACKAGES
        for path in (patterns.ROOT / package).rglob("*.py")
    )
    assert len({(item.module, item.line) for item in USED}) >= calls - 5
