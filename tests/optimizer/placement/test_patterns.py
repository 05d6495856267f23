"""Patterns of a group: exactly the plans of which no replica can go, and the cheapest of them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from optimizer.placement import greedy, near, patterns
from optimizer.placement.problem import Item, Routing, Row


def made(seed: int, routing: Routing) -> Item:
    """A group of one to four variants with unlike speeds, bounds and running replicas."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for place in range(chance.randint(1, 4)):
        least = chance.choice([0, 0, 0, 1, 2])
        rows.append(
            Row(
                variant=f"v{place}",
                accelerator=f"gpu-{place}",
                unit_cost=chance.choice([10.0, 22.0, 40.0, 90.5]),
                worth=chance.choice([0.0, 1.0, 1.0, 2.0, 0.45, chance.uniform(0.3, 3.0)]),
                least=least,
                most=least + chance.choice([0, 1, 3, 6]),
                running=chance.randint(0, 4),
            )
        )
    return Item(
        name="g",
        rows=tuple(rows),
        demand=chance.choice([1.0, 2.0, 3.0, chance.uniform(0.1, 9.0)]),
        routing=routing,
        hysteresis=chance.choice([0.0, 0.05]),
    )


def carries(item: Item, counts: tuple[int, ...]) -> bool:
    """Whether replicas carry the demand, in plain words: the sum of speeds, or the slowest for each."""
    used = [row.worth for row, count in zip(item.rows, counts, strict=True) if count]
    if item.routing == "least-loaded":
        carried = sum(row.worth * count for row, count in zip(item.rows, counts, strict=True))
    else:
        carried = min(used, default=0.0) * sum(counts)
    return carried >= item.demand * (1.0 - 1e-8)


def enough(item: Item) -> list[tuple[int, ...]]:
    """All plans within the bounds that carry the demand."""
    spans = [range(row.least, row.most + 1) for row in item.rows]
    return [counts for counts in itertools.product(*spans) if carries(item, counts)]


def reducible(item: Item, counts: tuple[int, ...]) -> bool:
    """Whether one replica can go."""
    fewer = (
        (*counts[:at], counts[at] - 1, *counts[at + 1 :])
        for at, row in enumerate(item.rows)
        if counts[at] > row.least
    )
    return any(carries(item, less) for less in fewer)


@pytest.mark.parametrize("routing", ["least-loaded", "round-robin"])
def test_patterns_are_the_plans_of_which_none_can_go(routing: Routing) -> None:
    """Every such plan is listed once, and no other one."""
    for seed in range(150):
        item = made(seed, routing)
        listed = patterns.patterns(item)
        assert listed is not None
        least = [counts for counts in enough(item) if not reducible(item, counts)]
        assert sorted(map(tuple, listed.counts.tolist())) == sorted(least), item


@pytest.mark.parametrize("routing", ["least-loaded", "round-robin"])
def test_the_least_price_needs_no_list(routing: Routing) -> None:
    """The search without a list ends at the least price of all plans, with what resources are worth."""
    for seed in range(150):
        item = made(seed, routing)
        if not any(row.worth for row in item.rows):
            continue
        prices = near.loaded(item, np.zeros(0))
        counts = near.near(item, prices, 0.0)
        assert counts is not None
        all_plans = np.array(enough(item), dtype=np.int64).reshape(-1, len(item.rows))
        if not len(all_plans):
            assert not len(counts)
            continue
        lowest = float(item.prices(all_plans).min())
        assert float(item.prices(counts).min()) == pytest.approx(lowest), item


@pytest.mark.parametrize("seed", range(20))
def test_equal_prices_are_ordered_by_counts(seed: int) -> None:
    """Sorting by price, and only what is equal by counts, gives what sorting by all of them gives."""
    chance = np.random.default_rng(seed)
    counts = chance.integers(0, 4, (seed * 7, 3))
    prices = chance.integers(1, 9, len(counts)) / 4.0
    distinct, places = np.unique(counts, axis=0, return_index=True)
    prices = prices[places]
    expected = np.lexsort((*(-distinct.T), prices))
    assert patterns._order(prices, distinct).tolist() == expected.tolist()


def test_the_first_pattern_within_what_there_is() -> None:
    """The cheapest one that fits all resources; none where each takes too much of one."""
    usage = np.array([[1.0, 9.0], [5.0, 2.0], [2.0, 2.0]])
    assert greedy._first_within(usage, [4.0, 4.0]) == 2
    assert greedy._first_within(usage, [5.0, 9.0]) == 0
    assert greedy._first_within(usage, [1.0, 4.0]) is None
    assert greedy._first_within(usage[:, :0], []) == 0
    assert greedy._first_within(usage[:0], [9.0, 9.0]) is None


@pytest.mark.parametrize("routing", ["least-loaded", "round-robin"])
def test_a_demand_for_more_replicas_than_memory_holds_is_not_listed(routing: Routing) -> None:
    """Counts are not written out before it is known how many there are."""
    rows = tuple(Row(name, name, 1.0, 1.0, 0, 2**60) for name in "ab")
    item = Item(name="g", rows=rows, demand=1e15, routing=routing)
    assert patterns.patterns(item) is None
