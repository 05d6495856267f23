"""The parsers under random text: seconds of the fuzzer where it is installed, hypothesis everywhere."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.kube import labels, quantity

words = st.sampled_from(
    [
        "a",
        "b-c",
        "x.io/y",
        "in",
        "notin",
        "=",
        "==",
        "!=",
        "!",
        ",",
        "(",
        ")",
        "<",
        ">",
        " ",
        "4",
        "-1",
        "/",
        "é",
        "",
    ]
)


@given(st.lists(words, max_size=12).map("".join) | st.text(max_size=20))
def test_selectors_refuse_or_hold_together(text: str) -> None:
    """No other error than its own; what is parsed says the same when it is written out and parsed again."""
    try:
        selector = labels.parse(text)
    except labels.SelectorError:
        return
    written = ",".join(
        {
            "exists": item.key,
            "!": f"!{item.key}",
            "in": f"{item.key} in ({','.join(item.values)})",
            "notin": f"{item.key} notin ({','.join(item.values)})",
        }.get(item.operator, f"{item.key}{item.operator}{''.join(item.values)}")
        for item in selector.requirements
    )
    assert labels.parse(written) == selector


@given(
    st.from_regex(
        r"[+-]?[0-9]{0,6}\.?[0-9]{0,6}([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?", fullmatch=True
    )
)
def test_quantities_refuse_or_keep_their_value(text: str) -> None:
    """The canonical form is stable, and rounds away from zero by less than a billionth."""
    try:
        value = quantity.parse(text)
    except ValueError:
        return
    canonical = quantity.canonical(text)
    assert quantity.canonical(canonical) == canonical
    with localcontext(prec=200):
        more = quantity.parse(canonical).copy_abs() - value.copy_abs()
        assert Decimal(0) <= more < Decimal("1e-9")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """Six seconds of coverage-guided inputs."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("parsers.py")),
        "-max_total_time=6",
        f"-artifact_prefix={tmp_path}/",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
