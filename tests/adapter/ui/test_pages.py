"""Pages without a browser: every kind of variant has one, whatever is known of it."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from adapter import tasks
from adapter.app.endpoints import Endpoints
from adapter.collector.servers.histogram import Histogram
from adapter.collector.windows.latencies import Distribution
from adapter.controller.state import VariantState
from adapter.diagnostics import explain_text
from adapter.planning.plan import Reasons, Why
from adapter.resources.inputs import InvalidVariant
from adapter.resources.stored_status import Decided
from adapter.ui import rendering, snapshots
from emulator.demo import scenario
from tests.fakes import fleet_states

KEY = "team-1/v0001"


@pytest.fixture
async def endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoints]:
    """The real program with a few variants; a page that is opened shows the present at any rate."""
    monkeypatch.setattr(snapshots, "FRESH_SHARE", 1e9)
    objects = tmp_path / "variants"
    scenario.write_objects(objects)
    scenario.write_deployment(objects, (), 1)
    async with fleet_states.served(tmp_path, objects, 20) as serving:
        yield serving


async def page(endpoints: Endpoints, path: str, status: int = 200) -> str:
    url = URL(endpoints.metrics_url + path, encoded=True)
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
        assert response.status == status, text[:300]
        return text


def odd(state: VariantState) -> dict[str, VariantState]:
    """States of which little or nonsense is known, by what is odd."""
    assert state.observation is not None
    traffic, decision = state.traffic, state.decision
    assert traffic is not None
    assert decision is not None
    silent = replace(traffic, ttft_ms=None, itl_ms=None, kv_cache=None, idle=True)
    endless = replace(traffic, ttft_ms=math.inf, itl_ms=math.nan, arrival_rate_rps=math.inf)
    nothing = decision.candidate._replace(replicas=0, accelerator="", cost=0.0)
    saturation = replace(decision.explanation, binding="saturation", runner_up=None)
    return {
        "follows": VariantState(source=state.source, desired=2),
        "new": VariantState(source=state.source, problem="waiting for the first metrics"),
        "silent": replace(state, observation=replace(state.observation, traffic=silent)),
        "endless": replace(state, observation=replace(state.observation, traffic=endless)),
        "zero": replace(state, desired=0, decision=replace(decision, candidate=nothing)),
        "learned": replace(
            state, decision=replace(decision, why=Why(Reasons(saturation, decision.reason)))
        ),
        "withdrawn": replace(
            state,
            desired=None,
            history=(Decided(at=time.time(), before=2, replicas=None, accelerator="", reason="x"),),
        ),
    }


async def test_every_kind_of_variant_has_its_pages(endpoints: Endpoints) -> None:
    """Followers, new ones, silence, infinite latencies, zero replicas and withdrawn targets."""
    states = {}
    for name, state in odd(endpoints.loop.states[KEY]).items():
        source = replace(state.source, namespace="odd", name=name)
        states[source.key] = replace(state, source=source)
    fleet_states.put(endpoints, states)
    refusal = InvalidVariant(namespace="odd", name="refused", reason="x", message="no such class")
    endpoints.loop._reconciler._inputs = replace(endpoints.loop.inputs, refused=(refusal,))
    for sort in ("attention", "ttft", "cost", "kv"):
        text = await page(endpoints, f"/ui?sort={sort}")
        for key in [*states, refusal.key]:
            assert f'data-key="{key}"' in text
    await endpoints._metrics._pages._snapshots.record()
    for key in [*states, refusal.key]:
        text = await page(endpoints, f"/ui/variants/{key}?analysis")
        assert "What the answer depends on" in text
        assert "nan" not in text.replace("nano", "")
    assert "no such class" in await page(endpoints, f"/ui/variants/{refusal.key}")
    assert "2 → none" in await page(endpoints, "/ui/variants/odd/withdrawn")
    assert "No such variant" in await page(endpoints, "/ui/variants/odd/none", 404)


async def test_characters_that_hide_or_turn_texts_are_shown(endpoints: Endpoints) -> None:
    """Marks of direction, of no width and of terminals, in names and reasons that others write."""
    text = "a\u202eb\u2066c\u200bd\ufeffe\x1b[2Jf\x7f"
    state = endpoints.loop.states[KEY]
    source = replace(state.source, namespace="odd", name="x", model=text, warnings=(text,))
    item = replace(
        state,
        source=source,
        accelerator=text,
        reason=text,
        problem=text,
        notes=(text,),
        history=(Decided(at=time.time(), before=1, replicas=2, accelerator=text, reason=text),),
    )
    fleet_states.put(endpoints, {source.key: item})
    await endpoints._metrics._pages._snapshots.record()
    for path in ("/ui", "/ui/variants/odd/x?analysis", f"/ui?q={quote(text)}"):
        shown = await page(endpoints, path)
        assert "a\\u202eb\\u2066c\\u200bd\\ufeffe\\x1b[2Jf\\x7f" in shown
        assert all(line.isprintable() for line in shown.replace("\t", "").splitlines())


async def test_measured_percentiles_stand_beside_the_slo(endpoints: Endpoints) -> None:
    """Both pages show what the buckets say, metrics and `/variants` the same; a missed p95 is slow."""
    state = endpoints.loop.states[KEY]
    assert state.observation is not None
    assert state.traffic is not None
    # 900 of 1000 first tokens within 400 ms, the others within 1600 ms; the target is 800 ms.
    buckets = Histogram((0.4, 1.6), array("d", [900, 100, 0]))
    traffic = replace(
        state.traffic, ttft_ms=300.0, ttft=Distribution(1000, buckets), itl=Distribution(9)
    )
    state = replace(
        state,
        observation=replace(state.observation, traffic=traffic),
        source=replace(state.source, targets=replace(state.source.targets, percentile=0.95)),
    )
    fleet_states.put(endpoints, {KEY: state})
    (series,) = re.findall(
        r"^variant_adapter_observed_slo_attainment_ratio\{.*ttft.*\} (\S+)$",
        await page(endpoints, "/metrics"),
        re.MULTILINE,
    )
    # 900 and a third of the second bucket's 100.
    assert float(series) == pytest.approx(1 - 100 * 2 / 3 / 1000)
    text = await page(endpoints, "/metrics")
    assert 'metric="ttft",namespace="team-1",quantile="0.95",variant_name="v0001"} 1000.0' in text
    for path in ("/ui", f"/ui/variants/{KEY}"):
        text = await page(endpoints, path)
        plain = re.sub(r"<[^>]*>", "", text)
        assert "p50 222 ms, p95 1000 ms SLO p95 800 ms, 93.3% within, too few" in plain
        assert 'class="badge slow"' in text
    assert "Percentiles: the pods show no buckets of it" in text
    document = json.loads(await page(endpoints, f"/variants/{KEY}"))
    assert document["latencies"]["ttft"] == {
        "p50Milliseconds": 222.222,
        "p95Milliseconds": 1000.0,
        "withinTarget": 0.9333,
        "count": 1000,
        "covered": 1.0,
        "problem": None,
    }
    assert "TTFT p50 222.2 ms, p95 1000.0 ms, 93.3% within the SLO target" in "\n".join(
        explain_text.lines(document)
    )


@pytest.mark.parametrize("path", ["/ui", "/ui?sort=cost", "/variants", "/metrics"])
async def test_others_have_their_turn_between_variants(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """What names every variant is made in pieces, between which the API answers."""
    await rendering.ready()
    rests = 0

    async def rest(pieces: tasks.Pieces) -> None:
        nonlocal rests
        rests += 1
        await asyncio.sleep(0)

    monkeypatch.setattr(tasks, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(tasks.Pieces, "rest", rest)
    await page(endpoints, path)
    assert rests >= len(endpoints.loop.states)


async def test_the_first_page_loads_templates_beside_the_event_loop() -> None:
    """Compiling them takes a tenth of a second, in which the API answers."""
    rendering.environment.cache_clear()
    loading = asyncio.create_task(rendering.ready())
    await asyncio.sleep(0)
    assert not loading.done()
    templates = await loading
    assert templates is await rendering.ready()
    assert templates.cache is not None
    assert len(templates.cache) == len(templates.list_templates(extensions=["html"]))


async def test_a_process_without_a_plan_says_so(endpoints: Endpoints) -> None:
    """A follower has no fleet to plan again: what-if and analysis point to the leader."""
    endpoints.last.fleet = endpoints.last.plan = None
    for path in ("/ui/what-if", f"/ui/variants/{KEY}/analysis"):
        assert "only the leader plans" in await page(endpoints, path)
    endpoints.loop.stop_leading()
    text = await page(endpoints, "/ui")
    assert "This process follows" in text


@pytest.mark.parametrize(
    "path",
    [
        "/ui?page=99999999999999999999", "/ui?q=%00%ff%ed%a0%80", "/ui?sort=%3Cx-y%3E&state=x&class=%22",
        "/ui?page=0", "/ui/what-if?scope=%22%3E&load=x&devices=-1", "/ui?q=" + "a" * 4000,
    ],
)  # fmt: skip
async def test_odd_queries_have_a_page(endpoints: Endpoints, path: str) -> None:
    """Nothing in a query makes an error of the server, and nothing of it becomes an element."""
    text = await page(endpoints, path)
    assert "</main>" in text
    assert "<x-y>" not in text


@pytest.mark.parametrize(
    "path", ["/ui/static/none", "/ui/static/..%2fapplication.py", "/ui/variants/%00/%00", "/ui/x"]
)
async def test_other_paths_are_not_found(endpoints: Endpoints, path: str) -> None:
    """Files are those of a list, and paths lead nowhere else."""
    assert "import" not in await page(endpoints, path, 404)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded; charset=foo", b"load=100", 200),
        ("application/x-www-form-urlencoded", b"load=%ff%fe", 400),
        ("application/x-www-form-urlencoded", b"load=100&" + b"a=b&" * 200, 200),
        ("application/x-www-form-urlencoded", b"\xff\x00" * 100, 200),
        ("application/x-www-form-urlencoded", b"load=100" * 1000, 413),
        ("multipart/form-data", b"x", 200),
        ("multipart/form-data; boundary=x", b"--x", 200),
        ("application/json", b"{}", 200),
    ],
)
async def test_odd_forms_make_no_error_of_the_server(
    endpoints: Endpoints, kind: str, body: bytes, status: int
) -> None:
    """Whatever is sent, there are both plans, a reason, or a refusal of what is too long."""
    headers = {"Origin": endpoints.metrics_url, "Content-Type": kind}
    url = f"{endpoints.metrics_url}/ui/what-if"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        text = await response.text()
        assert response.status == status
    if status != 413:
        assert ("Both plans" in text) == (status == 200)
