"""What is refused of a YAML text before objects are made of it."""

from __future__ import annotations

import pytest
import yaml

from adapter.resources.texts import documents
from adapter.settings import yaml_nodes
from adapter.settings.budgets import budgets

NAMES = ",".join(f"{number:04}x" for number in range(1000))
SQUARE = f"- &a {{{NAMES}}}\n" + "- <<: *a\n" * 1000
"""A million entries in 15 KiB."""

CHAIN = "- &a0 {k0: 1}\n" + "".join(
    f"- &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}\n" for n in range(1, 40)
)
"""Twice as many entries in each as in the one before."""


@pytest.mark.parametrize("text", [SQUARE, CHAIN], ids=["square", "chain"])
def test_merge_keys_add_no_more_than_can_be_read(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Budgets, rows of ConfigMaps and files say the line, and nothing is made of the text."""

    def made(*_: object) -> None:
        raise AssertionError("objects are made of it")

    for loader in (getattr(yaml, "CSafeLoader", yaml.SafeLoader), documents._Plain):
        monkeypatch.setattr(loader, "construct_document", made)
    for read in (budgets, documents.parse_yaml, documents.parse_file):
        with pytest.raises(ValueError, match=r"line [0-9]+: merge keys \(<<\) add more than"):
            read(text)


def test_merge_keys_that_people_write_are_used() -> None:
    """With one mapping, a list of them, and one that merges itself."""
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*a, *b]}\n"
    assert documents.parse_yaml(text)["b"] == {"x": 1, "y": 3}
    assert documents.parse_yaml(text)["c"] == {"x": 1, "y": 2}
    assert documents.parse_yaml("a: &a {<<: *a}\n") == {"a": {}}
    variants = "d: &d {a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1, j: 1}\n" + "".join(
        f"v{number}: {{<<: *d, z: 1}}\n" for number in range(5000)
    )
    assert len(documents.parse_file(variants)) == 5001
    (budget,) = budgets("- {<<: {gpus: 3}, scope: cluster, cost: 1}")
    assert budget.devices == 3


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
"""Nine times as many nodes on each line as on the one before."""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, r"line 6: aliases \(\*\) make more than 100[0-9]{3} nodes of it"),
        ("runs: &a [*a]\n", "line 1: an alias stands for what it stands in; write it out"),
        ("x: 1\nruns: &a {b: [*a]}\n", "line 2: an alias stands for what it stands in"),
    ],
)
def test_aliases_make_no_more_than_can_be_walked_through(text: str, why: str) -> None:
    """Of a benchmark's report or a fleet as of a ConfigMap; aliases that people write are used."""
    for read in (documents.parse_yaml, documents.parse_file):
        with pytest.raises(documents.DocumentError, match=why):
            read(text)
    shared = "row: &r {a: [1, 2, 3], b: {c: 4}}\nrows: [" + "*r, " * 5000 + "*r]\n"
    assert len(documents.parse_file(shared)["rows"]) == 5001


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- scope: cluster\n  cost: 1\n  cost: 9\n", "line 3: 'cost' is there twice"),
        ("- scope: cluster\n  cost: [\n", "line 3: did not find expected node content"),
        ("- scope: cluster\n- !!python/name:os.system\n", "line 2: could not determine"),
        ("- {scope: !!int x}\n", "invalid literal for int"),
    ],
)
def test_budgets_say_the_line(text: str, why: str) -> None:
    """Of a key that is there twice, of which the last would else count, and of what is no YAML."""
    with pytest.raises(ValueError, match="must be a YAML list of budgets") as caught:
        budgets(text)
    assert why in str(caught.value)


def test_repeated_keys_are_found_once_each() -> None:
    """Also in mappings that aliases show again."""
    root = documents.composed("a: &a {x: 1, x: 2}\nb: [*a, *a]\n")
    assert yaml_nodes.repeated_keys(root) == [("x", 1)]
