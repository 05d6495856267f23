"""Spellings that series have in clusters, on the pages of servers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapter.collector import exposition, model_servers, promql
from adapter.collector.instant_vector import Sample
from adapter.collector.servers import spelling

PAGES = Path(__file__).parents[3] / "data" / "metrics"
MODELS = {
    "vllm-0.11-v1": "Qwen/Qwen3-8B",
    "vllm-0.32-v1-dp2": "tiny",
    "sglang-0.5.23": "Qwen/Qwen3-32B",
}


def text(name: str) -> str:
    return (PAGES / f"{name}.prom").read_text()


def prefixed(page: str, prefix: str) -> str:
    """The page as a relabelling of all names writes it."""
    return "\n".join(
        line if line.startswith("#") or not line else prefix + line for line in page.split("\n")
    )


def exemplified(page: str) -> str:
    """The page as OpenMetrics with exemplars."""
    lines = [
        f'{line} # {{trace_id="ab"}} 1.0 1795694284.6' if "_count" in line else line
        for line in page.split("\n")
    ]
    return "\n".join((*lines, "# EOF", ""))


_NAME = re.compile(r"^((?:vllm|sglang):|)([a-z0-9_]+)", re.MULTILINE)


def escaped(page: str, colon: str) -> str:
    """The page in escaping scheme `dots` or `values`."""

    def name(form: re.Match[str]) -> str:
        rest, kind = form[2].replace("_", "__"), form[1].removesuffix(":")
        whole = f"{kind}{colon}{rest}" if kind else rest
        return f"U__{whole}" if kind and colon == "_3a_" else whole

    return _NAME.sub(name, page)


def quoted(page: str) -> str:
    """The page with all names among their labels."""
    return re.sub(r"^([a-z0-9_:]+)(?:\{(.+)\})? ", r'{"\1",\2} ', page, flags=re.MULTILINE)


def quoted_labels(page: str) -> str:
    """The page with a label in UTF-8 before all others, whose names are quoted too."""
    named = re.sub(r'([a-zA-Z_]+)(?==")', r'"\1"', page)
    return re.sub(
        r"^([a-z0-9_:]+)(?:\{(.+)\})? ",
        r'\1{"k8s.pod.name"="a, \"b\"",\2} ',
        named,
        flags=re.MULTILINE,
    )


def quoted_last(page: str) -> str:
    """The page with all names behind their labels, and blanks."""
    labels = r'{ "k8s.pod.name" = "a,", \2, "\1" } '
    return re.sub(r"^([a-z0-9_:]+)\{(.+)\} ", labels, page, flags=re.MULTILINE)


SPELLINGS = {
    "dots": lambda page: escaped(page, ":"),
    "dots without colons": lambda page: escaped(page, "__"),
    "values": lambda page: escaped(page, "_3a_"),
    "dots and KServe": lambda page: prefixed(escaped(page, ":"), "kserve_"),
    "quoted": quoted,
    "quoted labels": quoted_labels,
    "quoted, last": quoted_last,
    "underscore": lambda page: page.replace("vllm:", "vllm_").replace("sglang:", "sglang_"),
    "KServe": lambda page: prefixed(page, "kserve_"),
    "Ray": lambda page: prefixed(page.replace("vllm:", "vllm_"), "ray_"),
    "any prefix": lambda page: prefixed(page, "team:a_b:"),
    "line ends": lambda page: page.replace("\n", "\r\n"),
    "twice": lambda page: page + prefixed(page, "ray_"),
    "exemplars": exemplified,
}


NOT_IN_PROMETHEUS = {"quoted", "quoted, last", "line ends", "exemplars"}
"""Spellings of pages alone: Prometheus has names and labels."""


@pytest.mark.parametrize("how", sorted(SPELLINGS))
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_spelling_of_a_page_is_read_as_the_plain_one(name: str, how: str) -> None:
    """Separators, prefixes, line ends and exemplars change nothing, and two spellings do not count twice."""
    page = text(name)
    model = MODELS[name]
    wanted = exposition.parse(page, model, "http://x")
    assert exposition.parse(SPELLINGS[how](page), model, "http://x") == wanted
    assert wanted.finished > 0


def test_a_data_parallel_server_without_gauges_is_idle() -> None:
    """Before the first request it has counters at zero and no gauges; later it is unreadable without them."""
    page = exposition.parse(text("vllm-0.32-v1-dp2-idle"), "tiny", "http://x")
    assert (page.finished, page.running, page.waiting) == (0.0, 0.0, 0.0)
    loaded = "\n".join(
        line for line in text("vllm-0.32-v1-dp2").split("\n") if "num_requests_" not in line
    )
    with pytest.raises(exposition.ScrapeError, match="number of running requests is missing"):
        exposition.parse(loaded, "tiny", "http://x")


ROUTER = """vllm:current_qps{server="http://10.0.0.1:8000"} 1.5
vllm:num_requests_running{server="http://10.0.0.1:8000"} 0.0
vllm:num_requests_waiting{server="http://10.0.0.1:8000"} 0.0
vllm:gpu_cache_usage_perc{server="http://10.0.0.1:8000"} 0.2
"""


def test_gauges_without_counters_prove_nothing() -> None:
    """A router's or simulator's page has no finished requests: its load is not zero but unknown."""
    with pytest.raises(exposition.ScrapeError, match="no counter of finished requests"):
        exposition.parse(ROUTER, "m", "http://x")


FRESH = """sglang:num_running_reqs{model_name="m"} 1
sglang:num_queue_reqs{model_name="m"} 0
sglang:gen_throughput{model_name="m"} 0
"""


def test_a_server_that_has_not_counted_yet_is_read() -> None:
    """SGLang shows a counter from the first request that ends on."""
    page = exposition.parse(FRESH, "m", "http://x")
    assert (page.finished, page.running) == (0.0, 1.0)


def in_prometheus(page: str) -> list[Sample]:
    """The answer to the fleet's query, of a server with this page."""
    labels = {"namespace": "n", "pod": "p", "instance": "1:8000", "model_name": "tiny"}
    samples = [
        Sample({**labels, "__name__": name}, value, 5.0)
        for name, _, value in exposition.read(page, spelling.Names(), "u")
    ]
    return [Sample({**labels, "quantity": "sampled_at"}, 4.0, 5.0), *samples]


@pytest.mark.parametrize("how", ["underscore", "KServe", "twice", "dots", "values"])
def test_prometheus_is_read_in_every_spelling(how: str) -> None:
    """Series that were escaped or relabelled give the same page, and their spelling is queried for times."""
    page = text("vllm-0.32-v1-dp2")
    (wanted,) = promql.pods(in_prometheus(page))
    samples = in_prometheus(SPELLINGS[how](page))
    (pod,) = promql.pods(samples)
    assert pod.page == wanted.page
    assert pod.page is not None
    for style in promql.styles(samples):
        timed = spelling.restyled("vllm:num_requests_running", style)
        assert spelling.kind_of(style) == "vllm"
        assert f"timestamp({timed})" in promql.fleet(promql.styles(samples))
    assert promql.styles(samples)


@pytest.mark.parametrize("how", sorted(SPELLINGS.keys() - NOT_IN_PROMETHEUS))
def test_the_selector_of_prometheus_has_every_spelling(how: str) -> None:
    """What is read from pages is queried for: the same names, and no others."""
    names = spelling.READ - {model_servers.STARTED}
    pattern = re.compile(spelling.selector(names).removeprefix('{__name__=~"').removesuffix('"}'))
    shown = set(re.findall(r"^[a-zA-Z_][\w:]*", SPELLINGS[how](text("vllm-0.11-v1")), re.MULTILINE))
    read = {
        name for name in shown if spelling.spelled(name) not in {None, (model_servers.STARTED, "")}
    }
    assert len(read) > 10
    assert {name for name in shown if pattern.fullmatch(name)} == read
