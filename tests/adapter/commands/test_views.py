"""`ui` and `top` against an adapter that runs in the cluster in memory."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from adapter import cli, errors
from adapter.app.endpoints import Endpoints
from adapter.commands.comparison import compare
from adapter.commands.views import top, ui
from adapter.diagnostics import explain
from adapter.kube.client import connected
from adapter.planning import plan as planning
from tests.fakes import cluster_world as worlds
from tests.fakes import fleet_states
from tests.fakes.cluster_world import SYSTEM, World, until

pytestmark = pytest.mark.virtual_time

POD = "pod-1"


@contextlib.asynccontextmanager
async def installed(folder: Path) -> AsyncIterator[tuple[World, Endpoints]]:
    """An adapter that leads, whose metrics port the API server forwards."""
    async with worlds.running(folder) as world:
        world.load["v"] = 60.0
        async with world.replica(f"{POD}_abcd1234") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            url = URL(endpoints.metrics_url)
            assert url.host is not None
            assert url.port is not None
            world.api.forwarded[SYSTEM, POD, 8080] = (url.host, url.port)
            yield world, endpoints


def parsed(*words: str) -> argparse.Namespace:
    return cli.parse(words)


async def test_ui_forwards_the_page_and_its_updates(tmp_path: Path) -> None:
    """Page, style sheet, a form and the stream of updates come through the API server's port-forward."""
    async with installed(tmp_path) as (world, _):
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster, aiohttp.ClientSession() as session:
            forwarder = ui.Forwarder(cluster, parsed("ui"))
            async with forwarder.open():
                await forwarder.check()
                async with session.get(forwarder.url) as page:
                    assert page.status == 200
                    assert 'href="/ui/variants/team-a/v"' in await page.text()
                site = str(URL(forwarder.url).origin())
                async with session.get(f"{site}/ui/static/style.css") as sheet:
                    assert len(await sheet.read()) > 5000
                form = {"load": "200"}
                async with session.post(
                    f"{site}/ui/what-if", data=form, headers={"Origin": site}
                ) as answer:
                    assert "Both plans" in await answer.text()
                async with session.get(f"{site}/ui/events") as stream:
                    assert await stream.content.readuntil(b"\n\n") == b"retry: 5000\n\n"
        path = f"/api/v1/namespaces/{SYSTEM}/pods/{POD}/portforward"
        assert ("admin", "GET", path) in world.api.requests


async def test_ui_runs_until_it_is_told_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the address and serves it until a signal; then nothing listens there."""
    async with installed(tmp_path) as (world, _):
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster, aiohttp.ClientSession() as session:
            running = asyncio.create_task(ui._forward(cluster, parsed("ui", "--no-browser")))
            printed = ""
            while "Ctrl-C ends" not in printed:
                await asyncio.sleep(0.1)
                printed += capsys.readouterr().out
                assert not running.done()
            url = next(word for word in printed.split() if word.endswith("/ui"))
            async with session.get(url) as page:
                assert page.status == 200
            signal.raise_signal(signal.SIGTERM)
            assert await running == 0
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(url)


async def test_ui_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No metrics port, and a port that somebody else has, are said in one line; later losses as a page."""
    async with installed(tmp_path) as (world, _):
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster, aiohttp.ClientSession() as session:
            forwarder = ui.Forwarder(cluster, parsed("ui"))
            async with forwarder.open():
                busy = parsed("ui", f"--port={URL(forwarder.url).port}")
                with pytest.raises(errors.StartupError, match="choose another port with --port"):
                    async with ui.Forwarder(cluster, busy).open():
                        pass
                world.api.forwarded.clear()
                with pytest.raises(errors.InputError, match="Connection refused"):
                    await forwarder.check()
                async with session.get(forwarder.url) as page:
                    assert page.status == 502
                    assert "Connection refused" in await page.text()
        assert "connection ended" in capsys.readouterr().out


async def test_top_shows_the_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the variant with the numbers of /variants, and the sums below."""
    async with installed(tmp_path) as (_, endpoints):
        capsys.readouterr()
        words = ("top", "--url", endpoints.metrics_url)
        assert await asyncio.to_thread(cli.main, words) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("20")]
        assert lines[0].split()[:5] == ["NAMESPACE", "NAME", "STATE", "READY", "DESIRED"]
        assert lines[1].split()[:2] == ["team-a", "v"]
        assert "2" in lines[1].split()[4:5]
        assert lines[-1].split()[:2] == ["1", "variant"]
        assert await asyncio.to_thread(cli.main, (*words, "--namespace=other")) == 0
        shown = capsys.readouterr()
        assert "team-a" not in shown.out
        assert shown.err.endswith("no variants with --namespace other; 1 without\n")


async def test_top_shows_the_last_table_while_nobody_answers(tmp_path: Path) -> None:
    """A failed query keeps the document before and says why; the next one that succeeds replaces it."""
    async with installed(tmp_path) as (_, endpoints):
        answering = parsed("top", f"--url={endpoints.metrics_url}")
        document, problem = await asyncio.to_thread(top.shown_after, {"variants": []}, answering)
        assert problem == ""
        assert [item["name"] for item in document["variants"]] == ["v"]
    kept, problem = await asyncio.to_thread(top.shown_after, document, answering)
    assert kept is document
    assert "tried again: " in problem


def test_top_has_percentiles_shares_and_the_order_of_kubectl() -> None:
    """By name unless a column is asked for, the highest first; percentiles stand beside their mean."""
    known = fleet_states.fleet_of(60)
    states = fleet_states.states_of(known, planning.plan(known), now=0.0)
    document = {"variants": [explain.of_state(state, now=0.0) for state in states.values()]}
    by_name = top.table(document, parsed("top"))
    names = [str(cell) for cell in by_name.columns[1].cells]
    assert names == [key.partition("/")[2] for key in sorted(states)]
    assert str(by_name.columns[0].footer) == "60 variants"
    place = names.index("v0021")
    cells = {
        name: [
            str(list(column.cells)[place]) for column in by_name.columns if column.header == name
        ]
        for name in top.COLUMNS
    }
    latencies = explain.of_state(states["team-0/v0021"], now=0.0)["latencies"]
    assert cells["P95"] == [
        top._number(latencies[name]["p95Milliseconds"]) for name in ("ttft", "itl")
    ]
    assert "-" not in cells["P50"]
    assert cells["SHARE"] == [
        f"{explain.of_state(states['team-0/v0021'], now=0.0)['group']['share']:.0%}"
    ]
    by_cost = top.table(document, parsed("top", "--sort-by=cost"))
    costs = [float(str(cell)) for cell in by_cost.columns[-1].cells]
    assert costs == sorted(costs, reverse=True)
    attention = top.table(document, parsed("top", "--sort-by=attention"))
    assert str(next(iter(attention.columns[2].cells))).startswith("short")


def test_top_steers_no_terminal() -> None:
    """Names are texts: neither markup nor control characters reach the terminal."""
    document = {
        "leading": False,
        "variants": [
            {"namespace": "n", "name": "[red]x\x1b]0;evil\x07", "outcome": "x", "problem": "y"}
        ],
    }
    table = top.table(document, parsed("top"))
    cells = [str(cell) for cell in table.columns[1].cells]
    assert r"[red]x\x1b]0;evil\x07" in cells
    assert table.caption is not None


def test_ui_opens_a_given_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --url nothing is forwarded; without a browser the address is printed alone."""
    assert cli.main(("ui", "--url=http://127.0.0.1:8080/", "--no-browser")) == 0
    assert capsys.readouterr().out == "Page of the fleet: http://127.0.0.1:8080/ui\n"
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    assert cli.main(("ui", "--url=http://127.0.0.1:8080")) == 0
    assert "open the address yourself" in capsys.readouterr().out


def test_without_a_cluster_the_commands_name_the_other_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that an adapter outside a cluster answers name --url; `doctor` needs the cluster."""
    for command in (("top",), ("ui",), ("explain", "team-a/v"), ("compare",), ("doctor",)):
        assert cli.main((*command, f"--kubeconfig={tmp_path}/none")) == 1
        said = capsys.readouterr().err
        assert "no such kubeconfig; name one with --kubeconfig" in said
        assert ("or an adapter that you can reach with --url" in said) is (command != ("doctor",))


def test_small_sums_are_not_rounded_to_nothing() -> None:
    """Some minutes of a cheap variant, and the one miss of a day, are seen in the table."""
    seldom = {"share": 0.004, "most": 1}
    never = {"share": 0.0, "most": 0}
    sides = [
        {"meanReplicas": 1.0, "costCents": 0.42, "attainment": 0.9998},
        {"meanReplicas": 1.0, "costCents": 0.0031, "attainment": 1.0},
    ]
    item = {"hours": 0.03, "present": sides[0], "ours": sides[1]}
    text = compare.lines({"a/b": {**item, "moreReplicas": seldom, "fewerReplicas": never}})
    assert re.split(r"  +", text[2]) == [
        "a/b",
        "0.03",
        "1.00 / 1.00",
        "0.42 / < 0.01",
        "> 99.9% / 100.0%",
        "< 1% of the time more, by up to 1",
    ]
    assert text[3] == "cost of all: 0.42 / < 0.01 cents (-99.3%)"
