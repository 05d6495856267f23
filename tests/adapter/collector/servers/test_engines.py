"""Servers beside vLLM and SGLang: what their pages say, and what they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from adapter.collector import exposition, promql
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import engines, lines

PAGES = Path(__file__).parents[3] / "data" / "metrics"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

EXPECTED = {
    "tgi-3.3.prom": PodMetrics(
        finished=401, running=8, waiting=3, prompt_tokens=(51328, 401),
        generation_tokens=(71378, 401), ttft=(0, 0), itl=(0, 0), rejected=2,
    ),
    "triton-trtllm-0.20.prom": PodMetrics(
        finished=250, running=5, waiting=2, prompt_tokens=(63750, 250),
        generation_tokens=(41200, 250), ttft=(15.3, 255), itl=(0, 0), kv_cache=0.25, kv_tokens=256000,
        rejected=0,
    ),
    "triton-trtllm-0.10.prom": PodMetrics(
        finished=250, running=5, waiting=2, prompt_tokens=(63750, 250),
        generation_tokens=(41200, 250), ttft=(15.3, 255), itl=(0, 0), kv_cache=0.25, kv_tokens=256000,
        rejected=0,
    ),
    "trtllm-serve-1.1.prom": PodMetrics(
        finished=97, running=4, waiting=1, prompt_tokens=(0, 0), generation_tokens=(0, 0),
        ttft=(6.5, 101), itl=(0, 0), kv_cache=0.125,
    ),
    "trtllm-serve-2026.prom": PodMetrics(
        finished=97, running=4, waiting=1, prompt_tokens=(12416, 97), generation_tokens=(17266, 97),
        ttft=(6.5, 101), itl=(0, 0), kv_cache=0.125, kv_tokens=256000,
    ),
    "nim-1.8.prom": PodMetrics(
        finished=100, running=6, waiting=1, prompt_tokens=(12300, 100), generation_tokens=(17300, 100),
        ttft=(5.3, 106), itl=(353.88, 17694), kv_cache=0.05,
    ),
    "dynamo-worker-1.6.prom": PodMetrics(
        finished=800, running=12, waiting=0, prompt_tokens=(0, 0), generation_tokens=(0, 0),
        ttft=(0, 0), itl=(0, 0),
    ),
}  # fmt: skip

NIM_MODEL = "meta/llama-3.1-8b-instruct"


def model_of(name: str) -> str:
    """The model that a page is of."""
    return NIM_MODEL if name.startswith("nim") else LLAMA


def same(page: PodMetrics | None, wanted: PodMetrics) -> bool:
    """Whether two pages say the same, but for the start of the process and moments of lengths."""
    assert page is not None
    fields = (
        "finished", "running", "waiting", "prompt_tokens", "generation_tokens", "ttft", "itl", "kv_cache",
        "kv_tokens", "rejected", "preemptions",
    )  # fmt: skip
    return all(getattr(page, field) == pytest.approx(getattr(wanted, field)) for field in fields)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_page_says_what_its_table_names(name: str) -> None:
    """Requests, queue and lengths as far as the server shows them; what it does not show stays unknown."""
    page = exposition.parse((PAGES / name).read_text(), model_of(name), "http://x")
    assert same(page, EXPECTED[name])


def series(name: str) -> Iterable[tuple[str, dict[str, str], float]]:
    """All series of a page."""
    for line in (PAGES / name).read_text().splitlines():
        if line and not line.startswith("#"):
            shown, labels, value = lines.sample(line)
            yield shown, dict(labels), value


def answer(name: str) -> list[Sample]:
    """What Prometheus answers to `fleet()` of a page, grouped as it says."""
    target = {"namespace": "ns", "pod": "p", "instance": "10.0.0.1:8000", "job": "j"}
    samples: dict[tuple[tuple[str, str], ...], float] = {}
    model = ""
    for shown, labels, value in series(name):
        if engines.reads(shown) and not shown.endswith("_bucket"):
            kept = {key: labels[key] for key in ("model_name", *engines.LABELS) if key in labels}
            model = kept.get("model_name", model)
            key = tuple(sorted({"__name__": shown, "quantity": "other", **target, **kept}.items()))
            samples[key] = samples.get(key, 0.0) + value
    named = {"model_name": model} if model else {}
    timed = Sample({"quantity": "sampled_at", **target, **named}, 1000.0, 1000.0)
    return [timed, *(Sample(dict(key), value, 1000.0) for key, value in samples.items())]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_prometheus_says_the_same(name: str) -> None:
    """The same table reads both sources."""
    (pod,) = promql.pods(answer(name))
    assert not pod.problem
    assert same(pod.page, EXPECTED[name])


@pytest.mark.parametrize("engine", engines.ENGINES, ids=lambda engine: engine.name)
def test_every_series_of_the_tables_is_queried(engine: engines.Engine) -> None:
    """Those of pages, without buckets, and the one whose time counts."""
    matchers = re.findall('__name__(=~|!~)"([^"]*)"', engines.selector())
    queried = [name for name in engine.series if not name.endswith("_bucket")]
    for written in (name for plain in queried for name in (plain, f"kserve_{plain}")):
        assert all(
            (re.fullmatch(form, written) is not None) == (how == "=~") for how, form in matchers
        )
    assert engines.selector() in promql.fleet()
    assert f"timestamp({engine.timed})" in promql.fleet()


def respelled(text: str, prefix: str, change: Callable[[str], str] = str) -> str:
    """A page with a prefix before all names, or with changed ones."""
    return re.sub(
        r"^([a-zA-Z_:][\w:]*)", lambda name: prefix + change(name[1]), text, flags=re.MULTILINE
    )


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_prefix_before_all_names_is_found(name: str) -> None:
    """Platforms relabel names of every server; two spellings on one page count once."""
    text, model = (PAGES / name).read_text(), model_of(name)
    plain = exposition.parse(text, model, "http://x")
    forms = (
        respelled(text, "kserve_"),
        respelled(text, "ray:"),
        respelled(text, "", lambda written: written.replace("_", "__")),
        text.replace("trtllm_", "trtllm:"),
        text + respelled(text, "kserve_"),
    )
    for form in forms:
        assert exposition.parse(form, model, "http://x") == plain


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_prometheus_finds_a_prefix(name: str) -> None:
    """In its second query, which has the time of the scrape too: the first one shows the names."""
    samples = [
        sample._replace(labels={**sample.labels, "__name__": f"kserve_{written}"})
        if (written := sample.labels.get("__name__"))
        else sample
        for sample in answer(name)
    ]
    (pod,) = promql.pods(samples)
    assert same(pod.page, EXPECTED[name])
    (style,) = promql.styles(samples)
    assert f"timestamp({style})" in promql.fleet({*promql.STYLES, style})
    assert promql.lengths(60, {*promql.STYLES, style}) == promql.lengths(60)


def test_names_that_many_servers_have_are_no_sign_of_one() -> None:
    """What ends like series of NIM is of NIM only beside all that its pages have, and of no router."""
    some = "http_request_success_total 5\nhttp_num_requests_running 1\n"
    router = respelled((PAGES / "nim-1.8.prom").read_text(), "vllm_router_")
    for page in (some, router):
        with pytest.raises(exposition.NoServerError):
            exposition.parse(page, NIM_MODEL, "http://x")
    # In Prometheus too, where a router's series may have the name of the model that a variant serves.
    labels = {"namespace": "ns", "pod": "router", "model_name": NIM_MODEL}
    gauge = Sample({**labels, "__name__": "router_num_requests_running"}, 5.0, 1000.0)
    timed = Sample({**labels, "quantity": "sampled_at"}, 1000.0, 1000.0)
    assert promql.pods([timed, gauge]) == []


def test_a_server_without_a_count_of_requests_is_refused() -> None:
    """llama.cpp counts tokens: its load is said to be unknown, not guessed."""
    text = (PAGES / "llama-cpp-b6000.prom").read_text()
    for form in (text, text.replace("llamacpp:", "llamacpp_"), respelled(text, "kserve_")):
        with pytest.raises(
            exposition.ScrapeError, match=r"llama\.cpp's server has no count of requests"
        ):
            exposition.parse(form, LLAMA, "http://x")
    (pod,) = promql.pods(answer("llama-cpp-b6000.prom"))
    assert pod.page is None
    assert "no count of requests" in pod.problem


def test_an_engine_behind_dynamo_speaks_for_itself() -> None:
    """Its own series count, and those of the worker around it do not count again."""
    worker = (PAGES / "dynamo-worker-1.6.prom").read_text()
    engine = (PAGES / "trtllm-serve-1.1.prom").read_text()
    page = exposition.parse(worker + engine, LLAMA, "http://x")
    assert same(page, EXPECTED["trtllm-serve-1.1.prom"])
    vllm = (PAGES / "vllm-0.11-v1.prom").read_text()
    model = json.loads((PAGES / "expected.json").read_text())["vllm-0.11-v1.prom"]["model"]
    alone = exposition.parse(vllm, model, "http://x")
    assert exposition.parse(worker + vllm, model, "http://x") == alone


def test_a_page_of_something_else_is_refused() -> None:
    """A page without any known series names the servers that are read."""
    with pytest.raises(exposition.ScrapeError, match=r"no vllm: or sglang: metrics.*TGI"):
        exposition.parse("up 1\n", LLAMA, "http://x")


@pytest.mark.parametrize(
    ("shown", "fix"),
    [
        *(
            (name, "--gateway-metrics")
            for name in ("dynamo-frontend-1.6", "epp", "epp-llm-d", "epp-0.11")
        ),
        ('smg_router_requests_total{model="m",router_type="http"} 5\n', "these servers"),
        ("sgl_router_requests_total 5\n", "these servers"),
    ],
)
def test_a_page_of_a_gateway_or_router_is_refused_with_what_to_do(shown: str, fix: str) -> None:
    """Somebody's scale target is the gateway, or the port is a gateway's."""
    text = shown if "\n" in shown else (PAGES / f"{shown}.prom").read_text()
    with pytest.raises(exposition.NoServerError, match="no model server") as caught:
        exposition.parse(text, LLAMA, "http://x")
    assert fix in str(caught.value)
    # A picker beside a server that has its metrics too, as merged pages do.
    vllm = (PAGES / "vllm-0.11-v1.prom").read_text()
    model = json.loads((PAGES / "expected.json").read_text())["vllm-0.11-v1.prom"]["model"]
    assert exposition.parse(text + vllm, model, "http://x").finished > 0
