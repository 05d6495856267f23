"""Ceilings as people write them, in our words and in those of WVA's limiters."""

from __future__ import annotations

import re
from typing import Any

import pytest

from adapter.planning.groups import EVERY, Budget
from adapter.settings.budgets import BUDGETS, budgets, entries


def test_own_form() -> None:
    """Money and GPUs per installation, namespace and class; -1 is unlimited and 0 denies."""
    ceilings = budgets(
        "- {scope: cluster, cost: 5000, gpus: 64}\n"
        "- {scope: namespace, namespace: team-a, cost: 1200.5, quotas: {H100: 4, A100: -1, L40S: 0}}\n"
        "- {scope: class, class: Premium, gpus: -1, cost: 10, name: gold}\n"
    )
    assert ceilings == (
        Budget(name="installation", cost=5000.0, devices=64),
        Budget(
            name="namespace team-a", scope="namespace", subject="team-a", cost=1200.5,
            devices_by_type={"H100": 4, "A100": -1, "L40S": 0},
        ),
        Budget(name="gold", scope="class", subject="Premium", cost=10.0),
    )  # fmt: skip


def test_limiters_of_wva() -> None:
    """`quota` limiters of both scopes, with `default` for other namespaces, less those excluded."""
    ceilings = budgets(
        "limiters:\n"
        "- {type: quota, scope: cluster, quotas: {H100: 16}}\n"
        "- type: quota\n  scope: namespace\n  exclude: [infra]\n"
        "  namespaceQuotas: {team-a: {H100: 4}, default: {H100: 2, A100: 0}}\n"
    )
    assert ceilings == (
        Budget(name="installation", devices_by_type={"H100": 16}),
        Budget(name="namespace infra", scope="namespace", subject="infra"),
        Budget(
            name="namespace team-a", scope="namespace", subject="team-a", devices_by_type={"H100": 4}
        ),
        Budget(
            name="namespace default", scope="namespace", subject=EVERY,
            devices_by_type={"H100": 2, "A100": 0},
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("1_000", 1000.0),
        ("1e3", 1000.0),
        ("+5", 5.0),
        ("010", 10.0),
        ("08", 8.0),
        ("0o10", "not '0o10'"),
        ("0x10", "not '0x10'"),
        ("1:30", "not '1:30'"),
        ("yes", "not 'yes'"),
        ("2026-01-01", "not '2026-01-01'"),
        ("1,000", "unknown field"),
        ("~", "not 'None'"),
    ],
)
def test_numbers_are_what_they_look_like(text: str, cost: float | str) -> None:
    """Older YAML takes `010` for 8, `1:30` for 90, `yes` for a truth: here they are as meant, or wrong."""
    entry = f"- {{scope: cluster, cost: {text}}}"
    if isinstance(cost, float):
        assert budgets(entry) == (Budget(name="installation", cost=cost),)
        return
    with pytest.raises(ValueError, match=re.escape(cost)):
        budgets(entry)


ENDLESS = (
    "- {cost: 1, scope: [&a0 [x], "
    + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))
    + "]}"
)
"""A text of few characters whose value has more than all memory."""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3", "YAML list"),
        ("{scope: cluster}", "YAML list"),
        ("[[1", "YAML list"),
        ("- " * 65 + "1", "YAML list"),
        ("- {scope: cluster, cost: " + "? " * 8000, "YAML list"),
        ("- 3", "entry 1: must be a mapping"),
        ("- {cost: 1}\n- {cots: 1}", "entry 2: cots: unknown field; known are"),
        ("- {scope: node, cost: 1}", "entry 1: scope: must be cluster, namespace or class"),
        (ENDLESS, "entry 1: scope: must be cluster, namespace or class, not a list"),
        ("- {scope: cluster}", "has no ceiling"),
        ("- {type: gpu-inventory}", "--limited"),
        ("- {type: power, cost: 1}", "type: must be quota"),
        ("- {cost: -2}", "cost: must be -1"),
        ("- {cost: .nan}", "cost: must be -1"),
        ("- {cost: true}", "cost: must be -1"),
        ("- {gpus: 1.5}", "gpus: must be a whole number"),
        ("- {quotas: {H100: many}}", "quotas.H100: must be -1"),
        ("- {quotas: [H100]}", "quotas: must map"),
        ("- {class: Premium, cost: 1}", "class: needs scope: class"),
        ("- {scope: namespace, namespace: 3, cost: 1}", "namespace: must be a name"),
        ("- {scope: namespace, namespaceQuotas: {a: {H100: 1}}, exclude: [a]}", "exclude: a has"),
        ("- {namespaceQuotas: {a: {H100: 1}}}", "namespaceQuotas: needs scope: namespace"),
        ("- {scope: namespace, namespaceQuotas: {a: {H100: 1}}, cost: 1}", "cost: cannot stand beside"),
        ("- {quotas: {H100: 1}, exclude: [a]}", "exclude: is for namespaceQuotas"),
        ("- {cost: 1}\n- {gpus: 1}", "two budgets are 'installation'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    """One error, with the number of the entry and its field."""
    with pytest.raises(ValueError, match=re.escape(says)):
        budgets(text)


def test_what_is_shown_can_be_read_again() -> None:
    """For logs and the configuration page."""
    ceilings = budgets("- {cost: 5, quotas: {H100: 1}}\n- {scope: class, class: P, gpus: 3}")
    assert budgets(BUDGETS.show(ceilings)) == ceilings
    assert BUDGETS.show(()) == "none"
    assert budgets("") == ()


def test_an_entry_that_is_there_twice_ends_the_reading() -> None:
    """By aliases a short text has thousands of entries with thousands of namespaces each."""

    class Counted(dict[str, Any]):
        readings = 0

        def __len__(self) -> int:
            """Whether it is empty is asked for each time that it is read."""
            Counted.readings += 1
            return super().__len__()

    entry = {"scope": "namespace", "namespaceQuotas": Counted(a={}, b={})}
    with pytest.raises(ValueError, match="entry 2: two budgets are 'namespace a'"):
        entries([entry] * 1000)
    assert Counted.readings == 2
