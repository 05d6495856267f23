"""The pages in a real Chromium: numbers, clicks, updates, layout, accessibility, and hostile texts."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from adapter.app.endpoints import Endpoints
from adapter.controller.state import VariantState
from adapter.planning import plan as planning
from adapter.resources.inputs import InvalidVariant
from adapter.resources.stored_status import Decided
from adapter.ui import rendering, scenarios, snapshots
from emulator.demo import scenario
from tests.adapter.ui import browser, page_checks
from tests.adapter.ui.browser import Browser, Tab
from tests.fakes import fleet_states

pytestmark = [browser.needed, pytest.mark.asyncio(loop_scope="module")]

VARIANTS = 1000
VARIANT = "team-2/v0016"
GROUPED = "team-0/v0028"
ROOT = Path(__file__).resolve().parents[3]

ROWS = """Array.from(document.querySelectorAll("tr[data-key]"), (row) => [row.dataset.key,
  ...["replicas", "load", "ttft", "itl", "cost"].map((name) =>
    row.querySelector(`[data-field=${name}]`).textContent.replace(/\\s+/g, " ").trim())])"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Endpoints, Browser]]:
    """The real program with 1,000 variants, and a Chromium that has no network but loopback."""
    folder = tmp_path_factory.mktemp("site")
    objects = folder / "variants"
    scenario.write_objects(objects)
    scenario.write_deployment(objects, (), 1)
    async with (
        fleet_states.served(folder, objects, VARIANTS) as endpoints,
        browser.running(folder) as running,
    ):
        yield endpoints, running


@pytest_asyncio.fixture(loop_scope="module")
async def endpoints(
    site: tuple[Endpoints, Browser], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Endpoints]:
    """The program; what a test makes of its states ends with the test.

    A page that is opened shows the present at any rate.
    """
    monkeypatch.setattr(snapshots, "FRESH_SHARE", 1e9)
    serving, _ = site
    states, inputs = serving.loop.states, serving.loop.inputs
    serving._metrics._pages._snapshots._pause = 0.0
    yield serving
    fleet_states.put(serving, states)
    serving.loop._reconciler._inputs = inputs


@pytest_asyncio.fixture(loop_scope="module")
async def tab(site: tuple[Endpoints, Browser]) -> AsyncIterator[Tab]:
    """A new tab."""
    new_tab = await site[1].tab()
    yield new_tab
    await new_tab.command("Page.close")


async def documents(url: str) -> dict[str, Any]:
    """The documents of `/variants` by key."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/variants") as response:
        document = await response.json()
    return {f"{item['namespace']}/{item['name']}": item for item in document["variants"]}


def shown(document: dict[str, Any]) -> list[str]:
    """What the page must show of a document: replicas, load, TTFT, ITL, cost."""
    load, decision, targets = document["load"], document["decision"], document["targets"]
    latencies = []
    for name in ("ttft", "itl"):
        measured, target = load[f"{name}Milliseconds"], targets[f"{name}Milliseconds"]
        predicted = decision[f"predicted{name.title()}Milliseconds"]
        over = " above the SLO" if measured > target else ""
        shown_ms = [rendering.milliseconds(number) for number in (measured, predicted, target)]
        measures = document["latencies"][name]
        p50, p95, within = (
            measures[part] for part in ("p50Milliseconds", "p95Milliseconds", "withinTarget")
        )
        percentiles = (
            ""
            if p50 is None
            else f" p50 {rendering.milliseconds(p50)}, p95 {rendering.milliseconds(p95)}"
        )
        share = "" if within is None else f", {rendering.percent(within)} within"
        latencies.append(
            f"{shown_ms[0]}{over} predicted {shown_ms[1]}{percentiles} SLO {shown_ms[2]}{share}"
        )
    starting = max(document["currentReplicas"] - document["readyReplicas"], 0)
    more = f" +{starting} starting" if starting else ""
    advised = " advised" if document["advisory"] else ""
    desired = document["advisedReplicas"] if document["advisory"] else document["desiredReplicas"]
    return [
        f"{document['readyReplicas']} of {desired}{advised}{more}",
        rendering.number(load["arrivalRatePerMinute"]),
        *latencies,
        rendering.number(document["targetCost"]),
    ]


async def test_numbers_are_those_of_variants_and_links_lead_on(
    endpoints: Endpoints, tab: Tab
) -> None:
    """Every page of the fleet, its order and filters, and a variant's page agree with /variants."""
    url = endpoints.metrics_url
    known = await documents(url)
    await tab.open(f"{url}/ui?sort=name")
    keys = sorted(known, key=lambda key: key.split("/"))
    for page in range(1, 4):
        rows = await tab.value(ROWS)
        assert [row[0] for row in rows] == keys[100 * (page - 1) : 100 * page]
        for key, *cells in rows:
            assert cells == shown(known[key]), key
        await tab.click(f'nav.pager a[href$="page={page + 1}"]')
    total = await tab.value(
        "Array.from(document.querySelectorAll('tfoot td'), (cell) => cell.textContent.trim())"
    )
    desired = sum(
        item["desiredReplicas"] or item["advisedReplicas"] or 0 for item in known.values()
    )
    cost = sum(item["targetCost"] for item in known.values())
    assert (total[4], total[1], total[3]) == ("1000", str(desired), rendering.number(cost))
    await tab.open(f"{url}/ui")
    first = await tab.value("document.querySelector('tr[data-key] .badge').textContent")
    assert first == "short"
    await tab.click('a.chip[href="/ui?state=drifting"]')
    drifting = {key for key, item in known.items() if item["drift"]}
    assert drifting
    assert {row[0] for row in await tab.value(ROWS)} == drifting
    await tab.click('.fleet thead a[href*="sort=cost"]')
    costs = [known[row[0]]["targetCost"] for row in await tab.value(ROWS)]
    assert costs == sorted((known[key]["targetCost"] for key in drifting), reverse=True)
    assert await tab.value("document.querySelector('[aria-sort]').textContent") == "Cents/h"
    key = min(drifting)
    await tab.click(f'tr[data-key="{key}"] a')
    assert (await tab.value("location.pathname")) == f"/ui/variants/{key}"
    fields = await tab.value(
        """["replicas", "ttft", "itl"].map((name) => document.querySelector(
        `dd[data-field=${name}]`).textContent.replace(/\\s+/g, " ").trim())"""
    )
    assert fields == [shown(known[key])[place] for place in (0, 2, 3)]
    assert await tab.value("document.body.textContent.includes('predicted 25 ms')")
    # Alternatives and the capacity curve come by themselves.
    await tab.until("document.querySelectorAll('#analysis svg').length === 2")
    assert tab.problems == []
    assert {item.split("/ui")[0] for item in tab.requested} == {url}


async def test_layout_and_accessibility(endpoints: Endpoints, tab: Tab) -> None:
    """At 1280 and 400 pixels, light and dark: nothing overlaps, nothing scrolls sideways, all can be read."""
    url = endpoints.metrics_url
    pages = ("/ui", "/ui?sort=cost&page=3", f"/ui/variants/{GROUPED}", "/ui/what-if")
    for width in (1280, 400):
        await tab.size(width)
        for path in pages:
            await tab.open(url + path)
            await tab.until(
                "!document.querySelector('#analysis') || !!document.querySelector('#analysis svg')"
            )
            await tab.value(
                "document.querySelectorAll('details').forEach((one) => one.open = true)"
            )
            for scheme in ("light", "dark"):
                await tab.colours(scheme)
                texts, findings = await tab.value(page_checks.LAYOUT)
                assert texts > 20
                assert findings == [], (width, path)
                colours, findings = await tab.value(page_checks.ACCESS)
                assert colours >= 3
                assert findings == [], (width, path, scheme)


def axe() -> Path | None:
    """The file of axe-core, where a developer has it."""
    given = os.environ.get("VARIANT_ADAPTER_AXE", "")
    path = Path(given) if given else ROOT / "node_modules/axe-core/axe.min.js"
    return path if path.exists() else None


@pytest.mark.skipif(
    axe() is None,
    reason="axe-core is not installed: npm install --no-save axe-core, or VARIANT_ADAPTER_AXE=axe.min.js",
)
async def test_axe_core_finds_nothing(endpoints: Endpoints, tab: Tab) -> None:
    """No violation of any rule on any page, light and dark."""
    path = axe()
    assert path is not None
    script = path.read_text()
    for page in ("/ui", "/ui?q=model-1&sort=cost", f"/ui/variants/{GROUPED}", "/ui/what-if"):
        await tab.open(endpoints.metrics_url + page)
        if page == "/ui/what-if":
            await tab.value("document.querySelector('.what-if button').click()")
            await tab.until("!!document.querySelector('#result table')")
        await tab.until(
            "!document.querySelector('#analysis') || !!document.querySelector('#analysis svg')"
        )
        await tab.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
        await tab.value(f"{script}; true")
        for width, scheme in itertools.product((1280, 400), ("light", "dark")):
            await tab.size(width)
            await tab.colours(scheme)
            assert await tab.value(page_checks.AXE) == [], (page, width, scheme)


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</title></svg><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% include 'base.html' %}",
    "javascript:alert(1)",
    "\u202e\x00\ud800",
)


def hostile(state: VariantState, text: str) -> VariantState:
    """A state in which every text from outside is hostile."""
    assert state.decision is not None
    source = replace(
        state.source, namespace=text, name=text, model=text, service_class=text, accelerator=text,
        warnings=(text,), ambiguity=text,
    )  # fmt: skip
    candidate = state.decision.candidate._replace(accelerator=text)
    explanation = replace(state.decision.explanation, sized=text, binding=text)
    decision = replace(
        state.decision,
        candidate=candidate,
        why=planning.Why(planning.Reasons(explanation, text)),
        notes=(text,),
    )
    return replace(
        state, source=source, accelerator=text, reason=text, problem=text, notes=(text,),
        decision=decision,
        history=(Decided(at=state.decided_at, before=1, replicas=2, accelerator=text, reason=text),),
    )  # fmt: skip


async def test_hostile_texts_stay_texts(endpoints: Endpoints, tab: Tab) -> None:
    """Names, reasons and scraped texts make no element, script, request or dialog, on any page."""
    state = endpoints.loop.states[VARIANT]
    states = {}
    for text in HOSTILE:
        item = hostile(state, text)
        states[item.source.key] = item
    fleet_states.put(endpoints, states)
    refusals = tuple(
        InvalidVariant(namespace="n", name=text, reason="x", message=text) for text in HOSTILE
    )
    endpoints.loop._reconciler._inputs = replace(endpoints.loop.inputs, refused=refusals)
    for path in (
        "/ui",
        "/ui?sort=cost",
        "/ui?q=%3Cscript%3Ealert(1)%3C/script%3E&class=%22%3E%3Cimg%3E",
    ):
        await tab.open(endpoints.metrics_url + path)
        assert (
            await tab.value("document.querySelectorAll('img, script:not([src^=\"/ui\"])').length")
            == 0
        )
        handlers = "Array.from(document.querySelectorAll('*')).some((e) => Array.from(e.attributes)"
        assert not await tab.value(f"{handlers}.some((a) => a.name.startsWith('on')))")
        assert not await tab.value(
            "Array.from(document.links).some((link) => link.protocol === 'javascript:')"
        )
    await tab.open(f"{endpoints.metrics_url}/ui?sort=cost")
    text = await tab.value("document.querySelector('.fleet').textContent")
    for written in HOSTILE[:-1]:
        assert written in text
    await tab.click(".fleet tbody a")
    assert (
        await tab.value("document.querySelectorAll('img, script:not([src^=\"/ui\"])').length") == 0
    )
    assert [item for item in tab.problems if "404" not in item] == []


async def test_an_open_page_follows_and_holds_its_memory(endpoints: Endpoints, tab: Tab) -> None:
    """A new target shows without a reload; many updates leave no more nodes and memory than few."""
    await tab.open(f"{endpoints.metrics_url}/ui?q={VARIANT.partition('/')[2]}")
    await tab.until("document.getElementById('connection').textContent === 'Live'")
    states = dict(endpoints.loop.states)
    states[VARIANT] = replace(states[VARIANT], desired=77)
    fleet_states.show_every_update(endpoints)
    fleet_states.put(endpoints, states)
    await tab.until("document.querySelector('[data-field=replicas]').textContent.includes('of 77')")
    before = await tab.memory_after(updates=20)
    after = await tab.memory_after(updates=100)
    assert after["Nodes"] <= before["Nodes"] * 1.02 + 10
    assert after["JSHeapUsedSize"] <= before["JSHeapUsedSize"] * 1.1 + 200_000
    assert after["JSEventListeners"] <= before["JSEventListeners"]
    assert tab.problems == []


async def test_an_update_leaves_what_the_viewer_has_opened(endpoints: Endpoints, tab: Tab) -> None:
    """Opened meanings stay open with their focus; a tick during a fetch leads to another one."""
    await tab.open(f"{endpoints.metrics_url}/ui")
    await tab.until("document.getElementById('connection').textContent === 'Live'")
    await tab.value(
        """(() => { const one = document.querySelector(".meanings"); one.open = true;
        one.querySelector("summary").focus(); })()"""
    )
    for _ in range(5):
        fetched = await tab.value(
            """(async () => {
              while (busy) { await new Promise(done => setTimeout(done, 20)); }
              const [real, before] = [window.fetch, document.querySelector(".meanings")];
              let count = 0;
              window.fetch = (...given) => { count++; return real(...given); };
              const first = refresh();
              await refresh();
              await first;
              window.fetch = real;
              return [count, before.isConnected];
            })()"""
        )
        # A tick of the program's own, while these are fetched, leads to one more.
        if fetched[0] == 2:
            break
    assert fetched == [2, False]
    assert await tab.value("document.querySelector('.meanings').open")
    assert await tab.value("document.activeElement.tagName") == "SUMMARY"


async def test_what_if_shows_both_plans(endpoints: Endpoints, tab: Tab) -> None:
    """Sliders send a plan of a copy; its sums are those of the planner, and the published targets stay."""
    before = {key: state.desired for key, state in endpoints.loop.states.items()}
    known = endpoints.last.fleet
    assert known is not None
    await tab.open(f"{endpoints.metrics_url}/ui/variants/{VARIANT}")
    await tab.click("a.button")
    assert await tab.value("document.querySelector('[name=scope]').value") == VARIANT
    await tab.value(
        """(() => { const load = document.querySelector("[name=load]"); load.value = "300";
        load.dispatchEvent(new Event("input")); document.querySelector(".what-if button").click(); })()"""
    )
    assert await tab.value("document.querySelector('[name=load] + output').textContent") == "300 %"
    await tab.until("!!document.querySelector('#result table')")
    # A type of device begins with the number that there is, not with none.
    taken = sum(
        item.candidate.replicas * item.candidate.devices
        for item in planning.plan(known).decisions.values()
        if item.candidate.accelerator == "H100"
    )
    await tab.value(
        """(() => { const kind = document.querySelector("[name=device]"); kind.value = "H100-80GB";
        kind.dispatchEvent(new Event("change")); })()"""
    )
    assert await tab.value("document.querySelector('[name=devices]').value") == str(taken)
    more = scenarios.Scenario(scope=VARIANT, load=3.0)
    plans = [planning.plan(known), planning.plan(scenarios.changed(known, more))]
    sums = await tab.value(
        "Array.from(document.querySelectorAll('#result tbody tr'), (row) => row.cells[2].textContent)"
    )
    assert sums[0] == rendering.number(plans[1].total_cost)
    changed = await tab.value(
        """Array.from(document.querySelectorAll('#result .scroll:nth-of-type(2) th[scope=row]'),
        (cell) => cell.textContent)"""
    )
    assert changed == [VARIANT]
    assert plans[0].total_cost < plans[1].total_cost
    assert {key: state.desired for key, state in endpoints.loop.states.items()} == before
    assert tab.problems == []
