"""What is sent to the API server, as both of its parsers read it."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapter.kube.bodies.documents import encoded


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a\U0001f4a5b", "a\U0001f4a5b"),
        (
            "\u2028\u2029\x85\ufeff\x7f\x9f\ufffe\uffff",
            "\u2028\u2029\x85\ufeff\x7f\x9f\ufffe\uffff",
        ),
        ("\\ud83d\\udca5 \\U0001f4a5", "\\ud83d\\udca5 \\U0001f4a5"),
        ("\x00\x1f\t\r\n\"\\/'", "\x00\x1f\t\r\n\"\\/'"),
        ("half \ud83d a pair", "half \ufffd a pair"),
    ],
)
def test_texts_survive_json_and_yaml(text: str, read: str) -> None:
    """Server-side apply reads YAML, which has no surrogate pairs, and lines that end where JSON's do not."""
    sent = encoded({"text": text, text: 1})
    assert json.loads(sent) == yaml.safe_load(sent.decode()) == {"text": read, read: 1}
    assert b"\\ud83d" not in sent.replace(b"\\\\", b"")


@given(st.text())
def test_any_text_survives(text: str) -> None:
    """Whatever a tenant writes, in names and values."""
    sent = encoded([text])
    read = "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    assert json.loads(sent) == yaml.safe_load(sent.decode()) == [read]
