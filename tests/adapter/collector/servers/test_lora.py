"""Whether requests wait for a slot of a LoRA adapter, by the labels that servers show."""

from __future__ import annotations

import math

import pytest

from adapter.collector.servers import lora

NOW = 1.79e9


def labels(slots: str, running: str, waiting: str) -> dict[str, str]:
    return {
        "max_lora": slots,
        "running_lora_adapters": running,
        "waiting_lora_adapters": waiting,
    }


@pytest.mark.parametrize(
    ("slots", "running", "waiting", "adapters"),
    [
        pytest.param("2", "a,b", "c", 1.0, id="all-taken"),
        pytest.param("2", "a,b", "c,d,a", 2.0, id="one-of-them-has-a-slot"),
        pytest.param("2", "a,b", "b,a", 0.0, id="they-wait-for-room"),
        pytest.param("2", "a", "c", 0.0, id="a-slot-is-free"),
        pytest.param("2", "a,b", "", 0.0, id="nobody-waits"),
        pytest.param("0", "", "", 0.0, id="adapters-are-off"),
        pytest.param("None", "a,b", "c", 0.0, id="no-number"),
        pytest.param("9" * 5000, "a,b", "c", 0.0, id="a-long-number"),
        pytest.param("²", "a,b", "c", 0.0, id="no-digit"),
    ],
)
def test_adapters_wait_where_others_have_all_slots(
    slots: str, running: str, waiting: str, adapters: float
) -> None:
    """An adapter that runs needs no further slot; what is not understood says nothing."""
    assert lora.waiting([(labels(slots, running, waiting), NOW)]) == adapters


@pytest.mark.parametrize(
    ("older", "newest", "adapters"),
    [
        pytest.param(NOW - 60.0, NOW, 1.0, id="newest"),
        pytest.param(NOW, NOW - 60.0, 0.0, id="older"),
        pytest.param(NOW, 2.0 * NOW, 0.0, id="a-sum-of-processes"),
        pytest.param(NOW, math.nan, 0.0, id="no-time"),
        pytest.param(-NOW, 0.0, 0.0, id="no-time-at-all"),
    ],
)
def test_the_newest_pair_of_lists_counts(older: float, newest: float, adapters: float) -> None:
    """A page keeps all that there were; processes of one server add up their times."""
    ago, now = labels("2", "a,b", ""), labels("2", "a,b", "c")
    assert lora.waiting([(ago, older), (now, newest)]) == adapters
    assert lora.waiting([(now, newest), (ago, older)]) == adapters
