"""What is shown of a replay: the page in a real browser, the tables, the document for programs."""

from __future__ import annotations

import builtins
import json
import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from adapter.errors import UsageError
from emulator.replay import downsampling, report, tables
from emulator.replay.frontier import terminal
from emulator.replay.results import Comparison
from tests.fakes.replay import results as replay_results

pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is an extra")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
NASTY = "<script>alert('$x^{2}$')</script> & \"quoted\""
WIDTHS = (400, 800, 1100, 1440)
MEASURE = """
function measure(inside, width) {
  const meeting = [];
  for (const plot of inside.querySelectorAll('svg')) {
    const boxes = [...plot.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 4) meeting.push(one + ' / ' + other);
    }));
  }
  const beyond = [...inside.querySelectorAll('body *')].filter(
    item => item.getBoundingClientRect().right > inside.documentElement.clientWidth + 1);
  document.getElementById('width-' + width).textContent = JSON.stringify({
    width: inside.scrollingElement.scrollWidth, height: inside.scrollingElement.scrollHeight,
    loaded: inside.defaultView.performance.getEntriesByType('resource').length,
    beyond: beyond.length, texts: inside.querySelectorAll('svg text').length, meeting});
}
"""


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return replay_results.comparison(rules=[replay_results.RULES[i] for i in (0, 1, 2, 7)])


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return report.html(comparison)


@pytest.fixture(scope="module")
def page_of_three_classes() -> str:
    return report.html(replay_results.comparison(classes=3))


def browse(folder: Path, html: str, *flags: str) -> str:
    """What headless Chromium prints when it opens a page, without any network."""
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", *flags, file.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return done.stdout


def measured(folder: Path, html: str) -> Mapping[int, Mapping[str, Any]]:
    """What a script finds out about a page in frames of each width; a browser takes long to start."""
    frames = "".join(
        f'<pre id="width-{width}"></pre><iframe onload="measure(this.contentDocument, {width})"'
        f' style="border:0;width:{width}px;height:900px" srcdoc="{escape(html)}"></iframe>'
        for width in WIDTHS
    )
    dom = browse(folder, f"<script>{MEASURE}</script>{frames}", "--dump-dom")
    measurements = re.findall(r'<pre id="width-(\d+)">(.+?)</pre>', dom, re.DOTALL)
    return {int(width): json.loads(unescape(text)) for width, text in measurements}


def printed(comparison: Comparison, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal.table(comparison))
    return capture.get()


@in_browser
def test_the_browser_shows_numbers_and_plots(
    tmp_path: Path, comparison: Comparison, page: str
) -> None:
    """The DOM has every cell of the table, one plot per policy, the trade-off, and the finding as heading."""
    dom = browse(tmp_path, page, "--dump-dom")
    cells = re.findall(r"<td[^>]*>(?:[✓✗] )?([^<]*)</td>", dom)
    assert cells == [cell for row in tables.rows(comparison) for cell in row.cells]
    assert dom.count('<svg class="plot"') == len(comparison.results) + 1
    assert f"<h1>{tables.findings(comparison)[0]}</h1>" in dom


@in_browser
@pytest.mark.parametrize("scheme", [pytest.param(1, id="light"), pytest.param(0, id="dark")])
def test_screenshot(tmp_path: Path, page: str, scheme: int) -> None:
    """A light and a dark page show many colours, among them that of the first policy."""
    from matplotlib import image  # noqa: PLC0415 - an extra

    file = tmp_path / "page.png"
    browse(tmp_path, page, f"--screenshot={file}", "--window-size=1440,1500",
           f"--blink-settings=preferredColorScheme={scheme}")  # fmt: skip
    pixels = np.rint(image.imread(file)[..., :3] * 255).astype(int)
    assert pixels.shape == (1500, 1440, 3)
    assert pixels.std() > 10
    own = np.array([0x00, 0x72, 0xB2] if scheme else [0x5A, 0xB4, 0xF0])
    assert (np.abs(pixels - own).max(axis=-1) <= 2).sum() > 200
    assert (pixels[0, 0].mean() > 128) == bool(scheme)


@pytest.fixture(scope="module")
def layouts(
    tmp_path_factory: pytest.TempPathFactory, page_of_three_classes: str
) -> Mapping[int, Mapping[str, Any]]:
    return measured(tmp_path_factory.mktemp("layouts"), page_of_three_classes)


@in_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_or_overlaps(
    layouts: Mapping[int, Mapping[str, Any]], width: int
) -> None:
    """At any width the page scrolls down only, no two texts of a plot overlap, and nothing is loaded."""
    layout = layouts[width]
    assert layout["texts"] > 200
    assert layout["width"] <= width
    assert (layout["beyond"], layout["loaded"], layout["meeting"]) == (0, 0, [])


def test_self_contained(page: str) -> None:
    """No address, script or import: what the page refers to is in it, and its policy allows no more."""
    assert not re.findall(r"\w+://", page)
    assert not re.findall(r"<script|<img|<object|@import|@font-face", page)
    assert set(re.findall(r'(?:src|href)="([^"#]*)', page)) <= {"", "data:,"}
    assert set(re.findall(r"url\(([^)]?)", page)) == {"#"}
    assert "default-src 'none'" in page


def test_references_within_the_page(page: str) -> None:
    """Every identifier is there once, and every reference has one."""
    names = re.findall(r'\sid="([^"]*)"', page)
    assert sorted(set(names)) == sorted(names)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', page)) <= set(names)


def test_every_color_is_defined(page: str) -> None:
    """Plots have no colours of their own: each is a variable that the style sheet has for both schemes."""
    for name in set(re.findall(r"var\(--(\w+)\)", page)):
        assert page.count(f"--{name}:#") == 2
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): #", plots)


def test_equal_input_gives_equal_output(comparison: Comparison, page: str) -> None:
    """The page, the tables and the document are the same for the same replay, whatever was drawn before."""
    again = replay_results.comparison(rules=[replay_results.RULES[i] for i in (0, 1, 2, 7)])
    assert report.html(again) == page
    assert printed(again) == printed(comparison)
    assert json.dumps(tables.document(again)) == json.dumps(tables.document(comparison))


def test_size_of_eight_policies() -> None:
    """An hour of eight policies, a sample each second, is less than 2 MB."""
    page = report.html(replay_results.comparison(sample_seconds=1.0))
    assert len(page.encode()) < 2_000_000


def test_names_are_escaped(comparison: Comparison) -> None:
    """A name that looks like HTML, mathematics or control sequences is shown as it is, or without them."""
    results = tuple(
        replace(item, policy=f"{NASTY}{i}", title=f"{NASTY}\x1b[31m", notes=(NASTY,),
                curves={NASTY: item.curves["vllm-a100"]},
                classes=tuple(replace(c, service_class=NASTY + n, model=NASTY, ttft_target_ms=t)
                              for c in item.classes for n, t in (("a", 500.0), ("b", 900.0))))
        for i, item in enumerate(comparison.results)
    )  # fmt: skip
    nasty = replace(comparison, trace=NASTY, scenario=NASTY, facts={NASTY: NASTY}, results=results)
    page = report.html(nasty)
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count(escape(NASTY)) > 10
    assert "\x1b" not in printed(nasty)
    assert "$x^{2}$" in printed(nasty)


@pytest.mark.parametrize("policies", [pytest.param(4, id="bound"), pytest.param(3, id="no-bound")])
def test_nothing_served(comparison: Comparison, policies: int) -> None:
    """Curves without a single value, and numbers that are none, are left out, not drawn or written as nan."""
    chosen = comparison.results[:policies]
    mute = replay_results.without_latencies(replace(comparison, results=chosen))
    page = report.html(mute)
    assert "nan" not in page.lower()
    assert page.count("<svg") == len(chosen) + 1
    assert "nan" not in printed(mute)
    assert "No policy keeps 99 % of requests within the SLO" in tables.findings(mute)[0]
    assert tables.recovery(mute.results[0].recovery_seconds) == "never"


def test_one_policy_without_bound(comparison: Comparison) -> None:
    """A single policy is shown with its cost instead of a ratio."""
    alone = replace(comparison, results=comparison.results[1:2])
    page = report.html(alone)
    assert page.count("<svg") == 2
    cost = f"{alone.results[0].cost_cents:,.0f}"
    (sentence,) = tables.findings(alone)
    assert sentence == (
        "“This adapter, p95 SLO, anticipating” keeps 100.00 % of requests within the SLO"
        f" for {cost} cents."
    )
    assert tables.rows(alone)[0].cells[5] == "–"  # noqa: RUF001 - as shown
    assert tables.document(alone)["outcomes"][0]["cost_ratio"] is None
    assert ">clairvoyant<" not in page


def test_no_policy(comparison: Comparison) -> None:
    """A replay of nothing says so."""
    none = replace(comparison, results=())
    assert "<h1>No policy was replayed.</h1>" in report.html(none)
    assert len(printed(none).splitlines()) == 4


def test_several_classes_and_variants() -> None:
    """Each variant has its plots, each class a row beneath its policy, and its targets in the plots."""
    comparison = replay_results.comparison(
        rules=replay_results.RULES[:2], variants=("on-a100", "on-h100"), classes=3
    )
    page = report.html(comparison)
    assert page.count("<svg") == 1 + 2 * 2
    assert all(f"<h2>{name} over time</h2>" in page for name in ("on-a100", "on-h100"))
    assert [row.label for row in tables.rows(comparison)][:5] == [
        "This adapter, mean SLO", "premium", "standard", "batch", "This adapter, p95 SLO, anticipating",
    ]  # fmt: skip
    for label in ("SLO premium 500 ms", "SLO standard 2 s", "SLO batch 20 s", "SLO standard 40 ms"):
        assert page.count(f">{label}</text>") == 4
    assert page.count(">SLO batch 90 ms</text>") == 0  # so high that the curves would be flat


def test_outliers_are_cut_off(comparison: Comparison) -> None:
    """A policy far beyond the others does not flatten their curves: its own are cut off, with their peak."""
    first, *others = comparison.results
    curves = first.curves["vllm-a100"]
    far = {"vllm-a100": replace(curves, created=curves.created * 20)}
    page = report.html(replace(comparison, results=(replace(first, curves=far), *others)))
    assert page.count(f">replicas; cut off, up to {curves.created.max() * 20:.0f}</text>") == 1
    assert page.count(">replicas</text>") == len(others)


def test_without_matplotlib(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is missing, the error names the extra that has it."""
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r"pip install '\.\[plots\]'"):
        report.html(comparison)


def test_document_is_json(comparison: Comparison) -> None:
    """The document is JSON of numbers and null, with curves only where they are asked for."""
    mute = replay_results.without_latencies(comparison)
    document = json.loads(json.dumps(tables.document(mute, curves=True), allow_nan=False))
    first = document["outcomes"][0]
    assert (first["policy"], first["classes"][0]["ttft_p95_ms"]) == ("ours", None)
    assert first["recovery_seconds"] == [None, 60.0]
    assert (first["never_recovered"], first["recovery_worst_seconds"]) == (1, None)
    curves = first["curves"]["vllm-a100"]
    assert len(curves["seconds"]) == len(curves["ttft_p95_ms"]) == 721
    assert set(curves["desired"]) == {None}
    assert "curves" not in tables.document(mute)["outcomes"][0]


def test_document_rounds(comparison: Comparison) -> None:
    """Numbers have six digits."""
    odd = replace(comparison.results[0], gpu_hours=10.123456789, cost_cents=123456789.0)
    document = tables.document(replace(comparison, results=(odd,)))
    assert document["outcomes"][0]["gpu_hours"] == 10.1235
    assert document["outcomes"][0]["cost_cents"] == 123457000


def test_terminal_table(comparison: Comparison) -> None:
    """A line for each policy, with units, within 120 columns."""
    lines = printed(comparison).splitlines()
    assert len(lines) == 4 + len(comparison.results)
    assert (
        lines[4].split()
        == " ".join(["This adapter, mean SLO", *tables.rows(comparison)[0].cells]).split()
    )
    assert "95.40 %" in lines[4]
    assert "291 ms" in lines[4]


def test_narrow_terminal() -> None:
    """In the narrowest terminal titles are folded, and no number is."""
    comparison = replay_results.comparison(classes=2)
    text = printed(comparison, tables.WIDTH)
    assert "…" not in text
    for row in tables.rows(comparison):
        cells = [re.escape(cell) for cell in row.cells if cell]
        assert re.search(" +".join(cells), text)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100.00 %"), (0.99999, "99.99 %"), (0.99, "99.00 %"), (0.0, "0.00 %"), (math.nan, "–")],  # noqa: RUF001
)
def test_percent(share: float, shown: str) -> None:
    """Shares are rounded down, so that 100 % is all of them."""
    assert tables.percent(share) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00 ms"),
        (9.996, "10.0 ms"),
        (412.4, "412 ms"),
        (999.6, "1.00 s"),
        (12_345, "12.3 s"),
        (math.inf, "–"),  # noqa: RUF001
    ],
)
def test_duration(value: float, shown: str) -> None:
    """Times have three digits and a unit."""
    assert tables.duration_ms(value) == shown


def test_min_max_keeps_extremes() -> None:
    """A peak of one sample, and a gap, are still there with a hundredth of the samples."""
    seconds = np.arange(36_000.0)
    values = np.sin(seconds / 1000)
    values[12_345], values[23_456], values[30_000:30_500] = 99.0, -99.0, np.nan
    x, y = downsampling.min_max(seconds, values, 100)
    assert len(x) <= 500
    assert (x[np.nanargmax(y)], x[np.nanargmin(y)]) == (12_345, 23_456)
    assert np.isnan(y).any()
    assert (x[0], x[-1]) == (0, 35_999)
    assert (np.diff(x) > 0).all()


def test_short_gaps_are_bridged() -> None:
    """Samples without a request do not break a curve; a long time without any does."""
    nan = math.nan
    x, y = downsampling.bridge_gaps(np.arange(8.0), np.array([1, nan, 2, nan, nan, nan, 3, 4]), 3.0)
    assert x.tolist() == [0, 2, 6, 6, 7]
    assert np.array_equal(y, [1, 2, nan, 3, 4], equal_nan=True)


def test_changes_of_a_step_curve() -> None:
    """Of a step curve the samples stay at which it changes, and the last."""
    values = np.array([math.nan, math.nan, 1, 1, 2, 2, 2])
    assert downsampling.changes(np.arange(7.0), values)[0].tolist() == [0, 2, 4, 6]
