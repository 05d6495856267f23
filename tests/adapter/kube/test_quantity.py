"""Quantities: exact values and canonical text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.kube import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("3", "3"), ("3500m", "3500m"), ("3.5", "3500m"), ("0.0001", "100u"), ("1e3", "1e3"),
        ("1000", "1k"), ("2Gi", "2Gi"), ("2048Mi", "2Gi"), ("0", "0"), ("0m", "0"), ("-1.5", "-1500m"),
        ("1500", "1500"), ("1e-10", "1e-9"), ("-1e-10", "-1e-9"), ("0.1n", "1n"),
    ],
)  # fmt: skip
def test_canonical_form(text: str, canonical: str) -> None:
    """The canonical form is the one that Kubernetes writes."""
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize("text", ["", "NaN", "+Inf", "1 ", "1x", "e3", "1e", "--1", "1mm"])
def test_other_text_is_refused(text: str) -> None:
    """What is no quantity is an error that quotes it."""
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_milli_values_round_trip(milli: int) -> None:
    """Every milli-quantity keeps its exact value in canonical form."""
    assert quantity.parse(quantity.canonical(f"{milli}m")) == Decimal(milli) / 1000


def test_a_number_beyond_anything_is_no_quantity() -> None:
    """What is read can be written and read again: 99e920 would be 922 digits."""
    for text in ("99e920", "9" * 200, "-1e101"):
        with pytest.raises(ValueError, match="not a quantity"):
            quantity.parse(text)
    assert quantity.canonical(quantity.canonical("9e99")) == quantity.canonical("9e99")
