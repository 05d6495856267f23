"""The table that `compare` prints."""

from __future__ import annotations

import re

from adapter.commands.comparison import compare


def test_small_sums_are_not_rounded_to_nothing() -> None:
    """Some minutes of a cheap variant, and the one miss of a day, are seen in the table."""
    seldom = {"share": 0.004, "most": 1}
    never = {"share": 0.0, "most": 0}
    sides = [
        {"meanReplicas": 1.0, "costCents": 0.42, "attainment": 0.9998},
        {"meanReplicas": 1.0, "costCents": 0.0031, "attainment": 1.0},
    ]
    item = {"hours": 0.03, "present": sides[0], "ours": sides[1]}
    text = compare.lines({"a/b": {**item, "moreReplicas": seldom, "fewerReplicas": never}})
    assert re.split(r"  +", text[2]) == [
        "a/b",
        "0.03",
        "1.00 / 1.00",
        "0.42 / < 0.01",
        "> 99.9% / 100.0%",
        "< 1% of the time more, by up to 1",
    ]
    assert text[3] == "cost of all: 0.42 / < 0.01 cents (-99.3%)"
