"""Coverage-guided fuzzing of two parsers: `python tests/fuzz/parsers.py -max_total_time=60`.

Whatever comes in, each parser either refuses it with its own error or gives something that holds together.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["adapter.kube.labels", "adapter.kube.quantity"]):
    from adapter.kube import labels as selectors
    from adapter.kube import quantity


def one(data: bytes) -> None:
    """One input for both."""
    provider = atheris.FuzzedDataProvider(data)
    text = provider.ConsumeUnicodeNoSurrogates(120)
    try:
        selector = selectors.parse(text)
    except selectors.SelectorError:
        pass
    else:
        for requirement in selector.requirements:
            labels = {requirement.key: requirement.values[0] if requirement.values else ""}
            opposite = requirement.operator in {"!=", "notin", "!", "<", ">"}
            if not opposite and not requirement.matches(labels):
                raise AssertionError(f"{text!r}: {requirement} does not match {labels}")
            if requirement.operator in {"!=", "notin"} and requirement.matches(labels):
                raise AssertionError(f"{text!r}: {requirement} matches {labels}")
    try:
        value = quantity.parse(text)
    except ValueError:
        return
    again = quantity.canonical(text)
    if quantity.canonical(again) != again:
        raise AssertionError(f"{text!r}: {again!r} is not canonical")
    if abs(value) < 10**30 and abs(quantity.parse(again) - value) > 10**-9:
        raise AssertionError(f"{text!r}: {again!r} is another number")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
