"""The readers of foreign bytes under mutated texts, and in a time that grows with the text and no faster."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable

import pytest

from adapter import errors
from adapter.collector import exposition
from adapter.collector.servers import lines
from adapter.kube import duration, labels, paths, quantity
from adapter.kube.errors import InvalidPath
from adapter.resources import annotations as notes
from adapter.resources.serving import command_lines
from adapter.resources.texts import documents
from adapter.settings import kinds
from tests.fuzz import readers

FACTOR = 8


@pytest.mark.parametrize("name", sorted(readers.READERS))
def test_readers_refuse_or_hold_together(name: str) -> None:
    """No other error than the reader's own, and no input that takes long."""
    for text in readers.READERS[name][1]:
        readers.READERS[name][0](text)  # loads what it needs
    for text in readers.mutations(readers.READERS[name][1], 150, seed=1):
        readers.check(name, text)


LINE = 'vllm:num_requests_running{model_name="m"} 1\n'


def started(text: str) -> object:
    """The ports of a container that is started by that text."""
    return command_lines.ports({"args": [text]})


@pytest.mark.parametrize(
    ("read", "make", "size"),
    [
        pytest.param(labels.parse, lambda n: " " * n, 8000, id="selector-blanks"),
        pytest.param(labels.parse, lambda n: f"a{' ' * n}=b", 8000, id="selector-inner-blanks"),
        pytest.param(labels.parse, lambda n: "a=b," * n + "c", 2000, id="selector-terms"),
        pytest.param(labels.parse, lambda n: f"a in ({'b,' * n}c)", 4000, id="selector-values"),
        pytest.param(labels.parse, lambda n: f"{'a.' * n}/b", 4000, id="selector-prefix"),
        pytest.param(labels.parse, lambda n: f"a>{'9' * n}", 8000, id="selector-digits"),
        pytest.param(duration.seconds, lambda n: "9" * n, 30_000, id="duration-digits"),
        pytest.param(duration.seconds, lambda n: "1s" * n + "x", 30_000, id="duration-parts"),
        pytest.param(quantity.parse, lambda n: "9" * n + "x", 30_000, id="quantity"),
        pytest.param(lambda t: quantity.whole(t, most=9), lambda n: "9" * n, 30_000, id="count"),
        pytest.param(notes.parse_endpoints, lambda n: "http://a " * n, 2000, id="urls"),
        pytest.param(kinds.split_url, lambda n: f"http://{'a.' * n}", 30_000, id="host"),
        pytest.param(paths.check_name, lambda n: "a." * n, 30_000, id="name"),
        pytest.param(documents.parse_json, lambda n: "[" * n, 15_000, id="json-brackets"),
        pytest.param(documents.parse_json, lambda n: f"[{'1,' * n}1]", 5000, id="json-list"),
        pytest.param(documents.parse_yaml, lambda n: "[" * n, 1000, id="yaml-brackets"),
        pytest.param(documents.parse_yaml, lambda n: "- " * n, 1000, id="yaml-dashes"),
        pytest.param(documents.parse_yaml, lambda n: "? " * n, 1000, id="yaml-keys"),
        pytest.param(documents.parse_yaml, lambda n: "- a: 1\n" * n, 200, id="yaml-list"),
        pytest.param(documents.parse_yaml, lambda n: f"a: {'b ' * n}", 2000, id="yaml-words"),
        pytest.param(documents.parse_yaml, lambda n: f"a: '{'b' * n}", 4000, id="yaml-quote"),
        pytest.param(labels.parse_lenient, lambda n: "a=b," * n, 2000, id="pod-selector"),
        pytest.param(started, lambda n: "${a:-" * n, 1000, id="command-defaults"),
        pytest.param(started, lambda n: "$(" * n, 4000, id="command-variables"),
        pytest.param(started, lambda n: " --port 1" * n, 800, id="command-ports"),
        pytest.param(started, lambda n: " --port $((1" * n, 600, id="command-sums"),
        pytest.param(
            lambda t: exposition.parse(t, "m", "x"), lambda n: LINE * n, 1000, id="page-lines"
        ),
        pytest.param(
            lambda t: exposition.parse(t, "m", "x"), lambda n: "\n" * n, 20_000, id="page-empty"
        ),
        pytest.param(
            lambda t: exposition.parse(t, "m", "x"),
            lambda n: '{"x' + " " * n,
            8000,
            id="page-quoted-name",
        ),
        pytest.param(
            lambda t: exposition.parse(t, "m", "x"),
            lambda n: "vllm_" * n + ": 1",
            2000,
            id="page-name",
        ),
        pytest.param(
            lines.sample,
            lambda n: "vllm:num_requests_running{" + 'a="b",' * n + "} 1",
            4000,
            id="page-labels",
        ),
        pytest.param(
            lines.sample,
            lambda n: "vllm:num_requests_running{" + r'a="\n",' * n + "} 1",
            4000,
            id="page-escapes",
        ),
        pytest.param(lines.sample, lambda n: "a" * n + '{b="' + "c" * n, 20_000, id="page-cut"),
        pytest.param(lines.sample, lambda n: 'a{b="' + "\\" * n, 20_000, id="page-backslashes"),
        pytest.param(lines.sample, lambda n: f"a {'9' * n}x", 20_000, id="page-value"),
    ],
)
def test_time_grows_with_the_text_and_no_faster(
    read: Callable[[str], object], make: Callable[[int], str], size: int
) -> None:
    """Eight times the text takes about eight times as long; it would be 64 times in quadratic time."""
    short = max(_seconds(read, make, size), 0.002)
    assert _seconds(read, make, FACTOR * size) < 4 * FACTOR * short


def _seconds(read: Callable[[str], object], make: Callable[[int], str], size: int) -> float:
    """CPU seconds that reading a text of a size takes: the least of three texts, as readers remember some."""
    gc.disable()
    try:
        return min(_once(read, make(size + more)) for more in range(3))
    finally:
        gc.enable()


def _once(read: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    with contextlib.suppress(ValueError, errors.InputError, InvalidPath):
        read(text)
    return time.process_time() - started
