"""Readers of foreign bytes, for fuzzing: each refuses what comes in with its own error, in linear time.

`python tests/fuzz/readers.py NAME -runs=1000000` runs the coverage-guided fuzzer on one of them; `make fuzz`
runs all. `mutations` makes inputs without it, for the tests.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.fuzz import streams

Item = TypeVar("Item")

ALLOWED_SECONDS, ALLOWED_PER_BYTE = 0.5, 50e-6
"""CPU time that one input may take, and more for each of its bytes; quadratic time exceeds it by far."""

NASTY = (
    "9" * 400, "9" * 5000, "http://[", "http://\u2102/", "http://a..b/", "%2e%2e", "../..", "!!int x",
    "2020-13-45", "[" * 3000, "{" * 3000, "- " * 3000, "\x00", "\ud800", "²", "1e999", "-1", "NaN", "+Inf",
    " " * 4000, ",", "(", ")", "in", "notin", "\\", '"', "\n", "{", "}", "#", "0x10", "1_000", "é", "null",
    "true", "h", "ms", ":", "/", "",
)  # fmt: skip


def _page(text: str) -> None:
    from adapter.collector import exposition  # noqa: PLC0415 - instrumented by the fuzzer first

    try:
        page = exposition.parse(text, "m", "http://x")
    except exposition.ScrapeError:
        return
    assert page.running >= 0


def _selector(text: str) -> None:
    from adapter.kube import labels  # noqa: PLC0415

    try:
        selector = labels.parse(text)
    except labels.SelectorError:
        return
    selector.matches({"a": "1", "b": ""})


def _annotations(text: str) -> None:
    from adapter import errors  # noqa: PLC0415
    from adapter.resources import annotations  # noqa: PLC0415
    from adapter.resources.model_groups import membership  # noqa: PLC0415

    names = (annotations.MAX_REPLICAS, annotations.STARTUP, annotations.TUNE, annotations.ACTUATE)
    notes = dict.fromkeys(names, text)
    destinations = annotations.Destinations(("10.0.0.0/8", "*.example.com"))
    readers: tuple[Callable[[], object], ...] = (
        lambda: annotations.parse_count(notes, annotations.MAX_REPLICAS),
        lambda: annotations.parse_number(notes, annotations.STARTUP),
        lambda: annotations.parse_flag(notes, annotations.TUNE),
        lambda: annotations.parse_actuate(notes),
        lambda: membership.parse(dict.fromkeys(membership.ALL, text), "a"),
        lambda: annotations.parse_endpoints(text),
        lambda: annotations.parse_endpoints(text, own={"10.0.0.1"}, destinations=destinations),
    )
    for reader in readers:
        with contextlib.suppress(errors.InputError):
            reader()


def _budgets(text: str) -> None:
    from adapter.settings.budgets import budgets  # noqa: PLC0415

    with contextlib.suppress(ValueError):
        budgets(text)


def _config_map(text: str) -> None:
    from adapter.installation import CLASSES, COSTS  # noqa: PLC0415
    from adapter.resources.config_maps import ConfigMaps  # noqa: PLC0415

    names = (CLASSES, COSTS, "variantautoscaling-config")
    problems: list[str] = []
    document = {"metadata": {"name": _chosen(names, text)}, "data": {"key": text}}
    ConfigMaps(problems).read("x", document)


def _chosen(among: Sequence[Item], text: str) -> Item:
    """One of several, by the text alone: an input that fails once fails again."""
    return among[zlib.crc32(text.encode(errors="surrogatepass")) % len(among)]


VARIANT: Mapping[str, Any] = {
    "apiVersion": "llmd.ai/v1alpha1",
    "kind": "VariantAutoscaling",
    "metadata": {"name": "v", "namespace": "n", "annotations": {"llmd.ai/max-replicas": "3"}},
    "spec": {
        "modelID": "m",
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"},
        "modelProfile": {
            "accelerators": [
                {
                    "acc": "A100",
                    "accCount": 1,
                    "maxBatchSize": 4,
                    "atTokens": 100,
                    "perfParms": {
                        "decodeParms": {"alpha": "20.58", "beta": "0.41"},
                        "prefillParms": {"gamma": "5", "delta": "0.1"},
                    },
                    "engine": {"maxNumSeqs": 8, "kvTokens": 1000},
                }
            ]
        },
    },
    "status": {
        "desiredOptimizedAlloc": {
            "numReplicas": 3,
            "accelerator": "A100",
            "lastRunTime": "2026-01-01T00:00:00Z",
        }
    },
}


def _object(text: str) -> None:
    """The whole object, or the object with the text at one of its places."""
    from adapter.resources.inputs import Reader  # noqa: PLC0415

    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = replaced(VARIANT, _chosen(PLACES, text), text)
    reader = Reader()
    reader.read_object("", document)
    reader.inputs()


def _places(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values within a document."""
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (key,)
        yield from ((key, *path) for path in _places(inner))


PLACES = tuple(_places(VARIANT))


def replaced(value: Any, path: Sequence[str | int], text: object) -> Any:
    """A copy of a document with the text at one of its places."""
    if not path:
        return text
    key, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        return {**value, key: replaced(value[key], rest, text)}
    return [replaced(item, rest, text) if at == key else item for at, item in enumerate(value)]


def _neighbours(text: str) -> None:
    """A kind of object that tenants write, with the text at one of its places."""
    from tests.fuzz import neighbours  # noqa: PLC0415

    kind = _chosen(tuple(neighbours.KINDS), text)
    document = neighbours.KINDS[kind][0]
    path = _chosen(neighbours.places(kind, str), text[::-1])
    neighbours.check(kind, replaced(document, path, text))


def _status(text: str) -> None:
    from adapter.resources.stored_status import published  # noqa: PLC0415

    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = text
    for status in (
        document,
        {"desiredOptimizedAlloc": document},
        {"desiredOptimizedAlloc": {"numReplicas": document, "lastRunTime": "2026-01-01T00:00:00Z"}},
        {"desiredOptimizedAlloc": {"numReplicas": 1, "lastRunTime": document}},
    ):
        target = published(status)
        assert target is None or 0 <= target.replicas <= 100_000


def _paths(text: str) -> None:
    from adapter.kube import errors, paths  # noqa: PLC0415

    builders: tuple[Callable[[], str], ...] = (
        lambda: paths.item("apps/v1", "deployments", text, namespace="n", subresource="scale"),
        lambda: paths.item("apps/v1", text, "v", namespace="n"),
        lambda: paths.collection(text, "pods", namespace="n"),
        lambda: paths.collection("v1", "pods", namespace=text or "."),
    )
    for build in builders:
        try:
            path = build()
        except errors.InvalidPath:
            continue
        assert not {"", ".", ".."} & set(path.split("/")[1:])
        assert not set(path) & set("%?#\\ ")


def _picker(text: str) -> None:
    from adapter.collector import exposition  # noqa: PLC0415
    from adapter.collector.pickers import pages  # noqa: PLC0415

    try:
        page = pages.read(text, "http://x")
    except exposition.ScrapeError:
        return
    known = pages.Known(models={"m"}, pods={("n", "p")})
    load = page.only(known).load("n", known)
    assert load.in_flight.keys() <= {("n", "p")}


def _answer(text: str) -> None:
    from adapter.collector import instant_vector, promql  # noqa: PLC0415

    try:
        vector = instant_vector.parse(text.encode(errors="surrogatepass"))
    except (
        instant_vector.FailedError, ValueError, LookupError, TypeError, AttributeError, OverflowError,
        RecursionError,
    ):  # fmt: skip
        return  # those that its client translates
    tuple(promql.models(vector.samples))
    promql.pool_load(vector.samples, {"m"}, {("n", "p")})
    promql.pods(vector.samples)
    promql.lengths_of_pods(vector.samples)


def _request(text: str) -> None:
    from multidict import MultiDict  # noqa: PLC0415

    from adapter.apiserver import list_options, negotiation, request_info, status  # noqa: PLC0415

    names = ("limit", "timeoutSeconds", "timeout", "fieldSelector", "watch", "sendInitialEvents")
    start = "/apis/external.metrics.k8s.io/v1beta1/namespaces/"
    query = MultiDict({"labelSelector": text, "watch": text})
    action = request_info.attributes("GET", start + text, text, query)
    json.dumps(action.review())
    request_info.requirements(query, action)
    request_info.metric(start + text)
    readers: tuple[Callable[[], object], ...] = (
        *(lambda name=name: list_options.check(MultiDict({name: text})) for name in names),
        lambda: negotiation.accepted(text),
    )
    for reader in readers:
        with contextlib.suppress(status.StatusError):
            reader()


def _lease(text: str) -> None:
    from adapter.kube.lease import parsed  # noqa: PLC0415

    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = text
    names = (
        "holderIdentity",
        "leaseDurationSeconds",
        "acquireTime",
        "renewTime",
        "leaseTransitions",
    )
    record = parsed(dict.fromkeys(names, document))
    assert record.duration_seconds >= 0
    assert record.transitions >= 0
    assert 1970 <= record.acquired_at.year <= 9999


READERS: Mapping[str, tuple[Callable[[str], None], tuple[str, ...]]] = {
    "pages": (
        _page,
        (
            """vllm:num_requests_running{model_name="m",engine="0"} 2.0
vllm:num_requests_waiting{model_name="m"} 1.0
{"vllm:num_preemptions_total",model_name="m"} 1.0
""",
            """vllm:request_prompt_tokens_bucket{le="10",model_name="m"} 1
vllm:cache_config_info{num_gpu_blocks="10",block_size="16"} 1.0
""",
        ),
    ),
    "selectors": (_selector, ("a=b,c in (d,e),!f,g notin (h),i>4", "a.io/b==c")),
    "budgets": (
        _budgets,
        ("- {scope: class, class: P, cost: -1, quotas: {H100: 4}}", "limiters: []"),
    ),
    "annotations": (_annotations, ("3", "1m30s", "true", "scale", "http://10.0.0.1:8000/metrics")),
    "configmaps": (
        _config_map,
        (
            "name: Premium\npriority: 1\ndata:\n  - model: m\n    slo-tpot: 24\n    slo-ttft: 500\n",
            '{"device": "NVIDIA-A100-PCIE-80GB", "cost": "40.00"}',
        ),
    ),
    "objects": (_object, (json.dumps(VARIANT), "v")),
    "neighbours": (_neighbours, ("v", "8000", "a=b", "/metrics", "100m")),
    "status": (_status, (json.dumps(VARIANT["status"]), "3", '"2026-01-01T00:00:00Z"')),
    "pickers": (
        _picker,
        (
            """inference_objective_request_total{model_name="m"} 1
llm_d_epp_inflight_requests{endpoint_name="p-rank-0",producer_name="a"} 1
llm_d_epp_flow_control_pool_saturation{inference_pool="p",stage="prefill"} 0.5
""",
        ),
    ),
    "answers": (
        _answer,
        (
            """{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":
"vllm:num_requests_running","namespace":"n","pod":"p"},"value":[1700000000.1,"1"]}]}}""",
        ),
    ),
    "requests": (_request, ("a=b,c in (d)", "1m30s", "team-a/m", "application/json;q=0.9,*/*")),
    "leases": (_lease, ("5", '"2026-01-01T00:00:00.000000Z"', '"0001-01-01T00:00:00+14:00"')),
    "watches": (streams.watch, streams.WATCHES),
    "traces": (streams.trace, streams.TRACES),
    "paths": (_paths, ("v", "a.b-c", "apps/v1")),
}
"""Readers by name, each with texts that it accepts."""


def check(name: str, text: str) -> None:
    """Give one input to a reader.

    Raises:
        AssertionError: it takes too long, or what it gives does not hold together.
        Exception: any other error than the reader's own.

    """
    started = time.process_time()
    READERS[name][0](text)
    used = time.process_time() - started
    allowed = ALLOWED_SECONDS + ALLOWED_PER_BYTE * len(text)
    assert used <= allowed, f"{used:.2f} s of CPU for {len(text)} characters"


def mutations(seeds: tuple[str, ...], count: int, seed: int) -> Iterator[str]:
    """Texts that differ from the seeds in a few places: cut, doubled, joined, or with odd parts put in."""
    dice = random.Random(seed)  # noqa: S311 - no secrets
    yield from NASTY
    for _ in range(count):
        text = dice.choice(seeds)
        for _ in range(dice.randint(1, 4)):
            at, to = sorted((dice.randint(0, len(text)), dice.randint(0, len(text))))
            text = dice.choice(
                (
                    text[:at] + dice.choice(NASTY) + text[to:],
                    text[:at] + text[to:],
                    text[:to] + text[at:to] * dice.choice((1, 3, 200)) + text[to:],
                    text[:at] + chr(dice.choice((0, 9, 34, 92, 255, 0x2028, 0xD800))) + text[at:],
                )
            )[:200_000]
        yield text


INSTRUMENTED = (
    "adapter.apiserver",
    "adapter.collector",
    "adapter.kube",
    "adapter.resources",
    "adapter.settings",
    "emulator.trace_files",
)
"""Packages and modules whose branches guide the fuzzer."""


def main() -> None:
    """Run the coverage-guided fuzzer on the reader that the first argument names."""
    import atheris  # noqa: PLC0415 - not needed for the rest

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        # Not timed: the first inputs load what they need.
        for text in READERS[name][1]:
            READERS[name][0](text)

    def one(data: bytes) -> None:
        check(name, data.decode(errors="surrogateescape"))

    with tempfile.TemporaryDirectory() as corpus:
        for number, text in enumerate((*READERS[name][1], *NASTY)):
            Path(corpus, str(number)).write_bytes(text.encode(errors="surrogatepass"))
        atheris.Setup([*sys.argv, corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
