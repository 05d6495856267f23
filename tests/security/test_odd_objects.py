"""One variant against all: what is odd in its objects and pages is the problem of that variant alone.

Each row is a variant beside `v`: whatever it says, `v` gets its target, cycles go on, and the odd one's own
conditions say what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapter.app import managed_targets
from adapter.collector import exposition
from adapter.installation import CLASSES, COSTS
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.config_maps import ConfigMaps
from adapter.resources.watched import joining
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SCALERS, SYSTEM, until
from tests.fakes.kubernetes_objects import VARIANTS

NOTES: tuple[tuple[str, str], ...] = (
    ("llmd.ai/max-replicas", "9" * 400),
    ("llmd.ai/max-replicas", "9" * 5000),
    ("llmd.ai/min-replicas", "²"),
    ("llmd.ai/replicas", "1e3"),
    ("llmd.ai/replicas", "\U0001f4a5\u2028\x85\ufeff\x7f\\ud83d"),
    ("llmd.ai/startup-time", "9" * 30_000),
    ("llmd.ai/startup-time", "9" * 400 + "h"),
    ("llmd.ai/scale-to-zero-retention", "1s" * 20_000),
    ("llmd.ai/metrics-endpoints", "http://["),
    ("llmd.ai/metrics-endpoints", "http://\u2102.example/"),
    ("llmd.ai/metrics-endpoints", "http://a..b/"),
    ("llmd.ai/metrics-endpoints", f"http://{'a' * 64}.b/"),
    ("llmd.ai/metrics-endpoints", "http://127.0.0.1:99999/"),
    ("llmd.ai/metrics-endpoints", "http://127.0.0.1:0/"),
    ("llmd.ai/metrics-endpoints", "http://[fe80::1%25eth0]/"),
    ("llmd.ai/metrics-endpoints", "gopher://127.0.0.1/"),
    ("llmd.ai/metrics-endpoints", " ".join(f"http://127.0.0.1/{n}" for n in range(2000))),
)

PROFILES: tuple[dict[str, Any], ...] = (
    {"maxBatchSize": 1_000_000},
    {"maxBatchSize": 10**400},
    {"accCount": 10**9},
    {"atTokens": 10**15},
    {"engine": {"maxNumSeqs": 10**7}},
    {"perfParms": {"decodeParms": {"alpha": "1e308", "beta": "1e308"}}},
    {"perfParms": {"decodeParms": {"alpha": "9" * 400, "beta": "0"}}},
    {"acc": "A" * 100_000},
)


@pytest.mark.virtual_time
async def test_odd_objects_are_their_own_problem(tmp_path: Path) -> None:
    """Every odd variant is refused with its field; the others' cycles do not notice."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        world.api.admits = False
        for number, (name, text) in enumerate(NOTES):
            world.api.put(APPS, "deployments", worlds.workload(f"a{number}", 0))
            item = worlds.variant(f"a{number}")
            item["metadata"]["annotations"] = {name: text}
            world.api.put(VARIANTS, "variantautoscalings", item)
        for number, part in enumerate(PROFILES):
            item = worlds.variant(f"p{number}")
            item["spec"]["modelProfile"]["accelerators"][0].update(part)
            world.api.put(VARIANTS, "variantautoscalings", item)
        odd = {f"a{n}": name for n, (name, _) in enumerate(NOTES)}
        odd |= {f"p{n}": "spec.modelProfile" for n in range(len(PROFILES))}
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            for name, field in odd.items():
                status, reason, message = world.condition("OptimizationReady", name)
                assert (status, reason) == ("False", "InvalidConfiguration"), name
                assert field in message, name
                assert len(message) < 2000
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles > cycles)
            assert endpoints.loop.problem is None


def labelled(name: str, value: str = "1", more: str = "") -> str:
    return f'{name}{{model_name="{worlds.MODEL}"{more}}} {value}\n'


GOOD = labelled("vllm:num_requests_running") + labelled("vllm:num_requests_waiting", "0")

PAGES = {
    "digits": GOOD + f'vllm:cache_config_info{{num_gpu_blocks="{"9" * 5000}",block_size="16"}} 1\n',
    "blocks": GOOD + f'vllm:cache_config_info{{kv_cache_size_tokens="{"9" * 400}"}} 1\n',
    "value": GOOD + labelled("vllm:request_success_total", "9" * 400),
    "bound": GOOD + labelled("vllm:request_prompt_tokens_bucket", "1", ',le="1e300"'),
    "bounds": GOOD
    + labelled("vllm:request_prompt_tokens_bucket", "1", ',le="1.0000000000000002"')
    + labelled("vllm:request_prompt_tokens_bucket", "2", ',le="1.0000000000000004"'),
    "long": GOOD + labelled("vllm:num_requests_running", "1", f',x="{"y" * 100_000}"'),
    "large": GOOD + "#" * (5 * 2**20),
    "lines": GOOD + "\n" * 300_000,
    "secret": "vllm:num_requests_running{secret-of-the-page 1\n",
    "model": GOOD.replace(worlds.MODEL, "secret-of-the-page"),
    "bytes": GOOD + "\x00\ud800\u2028",
}


@pytest.mark.virtual_time
async def test_odd_pages_are_their_own_problem(tmp_path: Path) -> None:
    """Whatever a pod's page holds, the others' pods are read; and nothing of a page is shown."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        for name, text in PAGES.items():
            world.deploy(f"x{name}", 1)
            world.pages.odd[f"x{name}-0"] = text
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            await until(lambda: all(world.status(f"x{name}") for name in PAGES))
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles > cycles + 1)
            assert endpoints.loop.problem is None
            for name in PAGES:
                said = str(world.status(f"x{name}"))
                assert "secret-of-the-page" not in said
                assert "cannot be used" not in said  # no page is one that nobody foresaw
            assert "more than 4 MiB" in world.condition("MetricsAvailable", "xlarge")[2]
            assert "line 3 has more than" in world.condition("MetricsAvailable", "xlong")[2]
            assert "line 1 is not Prometheus" in world.condition("MetricsAvailable", "xsecret")[2]
            assert "serves another model" in world.condition("MetricsAvailable", "xmodel")[2]


@pytest.mark.parametrize(
    "text",
    [
        "priority: !!int x",
        "priority: !!timestamp 2020-13-45",
        "date: 2020-02-31",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 5_000,
        "&a [*a]",
        "x: " + "y" * 1_000_000,
        "!!python/object/apply:os.system [id]",
        "priority: 9" + "9" * 5000,
        "\x00",
        "name: [1, 2",
    ],
)
def test_odd_settings_leave_the_others(text: str) -> None:
    """One unusable entry of a ConfigMap is named; the entries beside it are read."""
    problems: list[str] = []
    read = ConfigMaps(problems)
    good = "name: good\npriority: 1\ndata: [{model: m, slo-tpot: 24}]"
    read.read("c", {"metadata": {"name": CLASSES}, "data": {"bad": text, "good": good}})
    cost = '{"cost": "1"}'
    read.read("c", {"metadata": {"name": COSTS}, "data": {"bad": text, "good": cost}})
    assert list(read.classes) == ["good"]
    assert list(read.accelerators) == ["good"]
    assert problems
    assert all(len(problem) < 600 for problem in problems)


@pytest.mark.virtual_time
async def test_a_cycle_that_fails_shows_everywhere(tmp_path: Path) -> None:
    """Within one interval: in /readyz, in the metrics, and in every variant's conditions."""

    async def broken(_: fleet.Fleet) -> planning.Plan:
        raise MemoryError

    async with worlds.running(tmp_path) as world:
        world.load |= {"v": 60.0, "w": 60.0}
        world.deploy("w", 1)
        async with world.replica("a", planner=broken) as (endpoints, _):
            await until(lambda: endpoints.loop.problem is not None)
            for name in ("v", "w"):
                await until(
                    lambda: "failed (MemoryError)" in world.condition("OptimizationReady")[2]
                )
                assert world.condition("OptimizationReady", name)[0] == "False"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{endpoints.metrics_url}/readyz") as response:
                    assert response.status == 503
                    assert "cycles failed: the last reconcile cycle failed" in await response.text()
                async with session.get(f"{endpoints.metrics_url}/metrics") as response:
                    assert "variant_adapter_cycle_failing 1.0" in await response.text()


@pytest.mark.virtual_time
async def test_objects_that_cannot_be_joined_show_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while all objects are joined keeps targets, and shows in conditions, /readyz and metrics."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            monkeypatch.setattr("adapter.resources.watches.join", broken)
            world.deploy("w", 1)
            await until(lambda: "ZeroDivisionError" in world.condition("ConfigurationValid")[2])
            assert world.condition("OptimizationReady")[0] == "True"
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{endpoints.metrics_url}/readyz") as response,
            ):
                assert response.status == 503
                assert "reading the changed objects failed" in await response.text()
            monkeypatch.setattr("adapter.resources.watches.join", joining.join)
            await until(lambda: world.desired("w") is not None)
            await until(lambda: world.condition("ConfigurationValid")[0] == "True")
            assert endpoints.loop.problem is None


@pytest.mark.virtual_time
async def test_a_variant_that_nobody_foresaw_is_its_own_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of whatever kind while one variant is read ends in its conditions."""
    read = exposition.parse

    def parse(text: str, model: str, url: str) -> Any:
        if "/pods/w-" in url:
            raise ZeroDivisionError
        return read(text, model, url)

    monkeypatch.setattr(exposition, "parse", parse)
    async with worlds.running(tmp_path) as world:
        world.load |= {"v": 60.0, "w": 60.0}
        world.deploy("w", 1)
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            await until(lambda: "ZeroDivisionError" in world.condition("MetricsAvailable", "w")[2])


@pytest.mark.virtual_time
async def test_an_odd_config_map_leaves_the_rest(tmp_path: Path) -> None:
    """An entry with a tag that ends the parser: the classes beside it decide on."""
    async with worlds.running(tmp_path) as world:
        config = worlds.manifests()[1]
        config["data"]["odd"] = "priority: !!int x"
        world.api.put(CORE, "configmaps", config)
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)


@pytest.mark.virtual_time
async def test_a_name_too_long_for_the_shared_config_map_is_left_out(tmp_path: Path) -> None:
    """The API server would refuse the targets of all managed HPAs for the key of one."""
    async with worlds.running(tmp_path) as world:
        (targets,) = worlds.manifests("base/managed-targets.yaml")
        world.api.put(CORE, "configmaps", targets)
        notes = {"llm-d.ai/managed": "true", "llm-d.ai/model-id": worlds.MODEL}
        for name in ("m", "x" * 250):
            world.deploy(name, 1)
            world.load[name] = 60.0
            world.api.remove(VARIANTS, "variantautoscalings", "team-a", name)
            item = worlds.scaler(name)
            item["metadata"]["annotations"] = {**notes, "llm-d.ai/variant-cost": "10.0"}
            world.api.put(SCALERS, "horizontalpodautoscalers", item)

        def keys() -> set[str]:
            stored = world.api.get(CORE, "configmaps", SYSTEM, targets["metadata"]["name"])
            return set(stored.get("data") or {})

        async with world.replica("a") as (endpoints, _):
            await until(lambda: keys() == {"team-a_m"})
            assert f"team-a/{'x' * 250}" in endpoints.loop.states
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles > cycles + 1)
            assert keys() == {"team-a_m"}


def test_a_tenant_does_not_fill_the_shared_config_map() -> None:
    """Beyond its size the entries of every namespace are kept in turn."""
    texts = {f"greedy/{number:06}{'x' * 200}": "t" * 100 for number in range(5000)}
    texts |= {f"other/{number}": "t" * 100 for number in range(50)}
    kept = managed_targets.fitting(texts)
    assert sum(key.startswith("other/") for key in kept) == 50
    assert 1000 < len(kept) < 5000
    assert sum(len(key) + 100 for key in kept) <= managed_targets.MOST_BYTES
