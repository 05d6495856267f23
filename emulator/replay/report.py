"""Results of a replay as one HTML file: no script, no external resources, equal for equal input."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from emulator.replay import plots, tables
from emulator.replay.frontier import curves, terminal
from emulator.replay.results import Comparison, PolicyResult

# Colours on a light and on a dark page. The policies' are Okabe's and Ito's palette without yellow and black,
# darker or lighter for contrast.
COLORS = {
    "paper": ("#ffffff", "#161b22"),
    "ground": ("#f3f5f7", "#0d1117"),
    "ink": ("#1c2128", "#e6edf3"),
    "muted": ("#59636e", "#9aa5b1"),
    "grid": ("#e1e5ea", "#2b333d"),
    "bad": ("#c8102e", "#ff6b6b"),
    "good": ("#11763d", "#4cc38a"),
    "bound": ("#6e7781", "#a3acb7"),
    "own0": ("#0072b2", "#5ab4f0"),
    "own1": ("#d55e00", "#f58a3c"),
    "own2": ("#009e73", "#2fc79b"),
    "own3": ("#b0528a", "#e39cc6"),
    "own4": ("#c08a00", "#f2b93b"),
    "own5": ("#3f9fd6", "#a6dcff"),
    "own6": ("#7a1f4b", "#c4527a"),
    "own7": ("#7a7a1e", "#c9c95a"),
}
_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1500px;margin:0 auto;padding:1.5rem clamp(.75rem,3vw,2.5rem) 3rem}
h1{font-size:clamp(1.2rem,2.2vw,1.65rem);line-height:1.35;font-weight:600;
max-width:62rem;margin:.25rem 0 .5rem}
.lead{margin:0 0 1.5rem;max-width:62rem}
h2{font-size:1.15rem;margin:2.25rem 0 .75rem}
h3{font-size:1rem;margin:0}
h1,h2,h3,dd,th,td{overflow-wrap:anywhere}
p{margin:0}
.kicker,.note,.key,figcaption p,dt{color:var(--muted);font-size:.875rem}
.note{margin:.5rem 0}
.chip{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin-right:.5em}
.first{display:grid;gap:1rem;align-items:start;grid-template-columns:minmax(0,36rem) minmax(20rem,1fr)}
.card{margin:0;min-width:0}
.card,.facts,table{background:var(--paper);border:1px solid var(--grid);border-radius:8px}
.card,.facts{padding:.875rem 1rem}
.facts{margin:0;display:grid;grid-template-columns:fit-content(45%) minmax(0,1fr);gap:.25rem 1rem;
align-content:start;font-size:.9rem}
.facts dd{margin:0}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,25rem),1fr))}
.cards>.card{display:grid;grid-template-rows:subgrid;grid-row:span 3;row-gap:0}
figcaption{margin-bottom:.5rem}
.plot{display:block;width:100%;height:auto}
.plot *{stroke-linejoin:round}
.plot text{paint-order:stroke;stroke:var(--paper);stroke-width:2.5px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;border-top:1px solid var(--grid)}
thead th{border:0;color:var(--muted);font-weight:500;font-size:.8rem;vertical-align:bottom}
th:first-child{text-align:left}
tbody th{font-weight:600;min-width:10rem}
td{white-space:nowrap}
.class th{font-weight:400;padding-left:2.2rem}
.class th,.class td{border-top:0;padding-top:0;color:var(--muted)}
td.met{color:var(--good);font-weight:600}
td.missed{color:var(--bad)}
.key{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
.key span{display:inline-flex;align-items:center;gap:.45rem}
.key i{width:1.75rem;height:.75rem;display:inline-block}
.key .solid,.key .dots,.key .dash,.key .slo{height:0;border-top:2px solid var(--ink)}
.key .dots{border-top-style:dotted}
.key .dash{border-top:2px dashed var(--bound)}
.key .slo{border-top:1px dashed var(--ink)}
.key .area{background:var(--ink);opacity:.3}
.key .over{background:var(--bad);opacity:.3}
.key .warm{background:var(--grid)}
@media (max-width:64rem){.first{grid-template-columns:minmax(0,1fr)}}
@media (max-width:64rem){
.card,.facts{padding:.75rem .6rem}
thead{position:absolute;clip-path:inset(50%)}
table,tbody,tr{display:block}
tr{display:grid;grid-template-columns:1fr 1fr;gap:.1rem 1.25rem;padding:.75rem;
border-top:1px solid var(--grid)}
tr:first-child{border:0}
th[scope=row]{border:0;grid-column:1/-1;padding:0 0 .25rem}
td{display:flex;justify-content:space-between;flex-wrap:wrap;gap:0 .5rem}
td,.class th,.class td{padding:0;border:0}
td::before{content:attr(data-name);color:var(--muted);font-weight:400}
td:empty{display:none}
tr.class{border-top:0;padding-top:0}
}
@media (max-width:30rem){tr{grid-template-columns:1fr}}
@media print{body{background:none}.card,tr{break-inside:avoid}}
"""
_ABOUT = (
    f"✓: at least {tables.GOAL * 100:g} % of requests within both targets. Latencies are 95th percentiles;"
    " TTFT includes waiting at the gateway. Recovery: time from an upward step of the load until the requests"
    " of the next two minutes are within their targets. Bound: the cheapest schedule of replicas that meets"
    " the SLO with knowledge of the whole traffic (the clairvoyant)."
)


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html(comparison: Comparison) -> str:
    """Render the page.

    Raises:
        UsageError: Matplotlib is not installed.

    """
    every, comparison = comparison, tables.best_shown(comparison)
    first, *others = tables.findings(every)
    title = _text(f"{comparison.trace} on {comparison.scenario}")
    variants = dict.fromkeys(name for item in comparison.results for name in item.curves)
    sections = "".join(_section(comparison, variant) for variant in variants)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Replay of {title}</title>
<style>
{_colors()}{_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Autoscaling policies, replayed: {title}</p>
<h1>{escape(first)}</h1>
<p class="lead">{escape(" ".join(others))}</p>
</header>
<div class="first">
{_trade_off(comparison, every)}{_facts(comparison)}</div>
{_beside(every)}{_table(comparison)}{sections}</main>
</body>
</html>
"""


def _text(value: str) -> str:
    return escape(tables.plain(value))


def _colors() -> str:
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLORS.items()) for i in (0, 1))
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _chip(comparison: Comparison, result: PolicyResult) -> str:
    name = plots.palette(comparison)[result.policy]
    return f'<i class="chip" style="background:var(--{name})"></i>'


def _beside(comparison: Comparison) -> str:
    """Sentences on the adapter beside the best rival at its costs; empty where nothing was swept."""
    said = terminal.sentences(curves.frontier(comparison.results))
    if len(comparison.results) <= tables.MOST_POLICIES or not said:
        return ""
    lines = "".join(f"<li>{_text(sentence)}</li>\n" for sentence in said)
    return (
        "<section>\n<h2>The adapter beside the rivals at the same cost</h2>\n"
        '<p class="note">Every rival was swept over its thresholds; tables and plots below have the'
        " cheapest of each that meets the SLO, or the one that keeps most.</p>\n"
        f"<ul>\n{lines}</ul>\n</section>\n"
    )


def _trade_off(comparison: Comparison, every: Comparison) -> str:
    if not comparison.results:
        return ""
    return (
        '<figure class="card"><figcaption><h3>SLO attainment over cost</h3>'
        f"<p>Upper left is best; shaded: at least {tables.GOAL * 100:g} % within the SLO.</p></figcaption>\n"
        f"{plots.trade_off(comparison, every if every is not comparison else None)}</figure>\n"
    )


def _facts(comparison: Comparison) -> str:
    facts: dict[str, str] = {
        "trace": comparison.trace,
        "scenario": comparison.scenario,
        "requests": f"{comparison.requests:,}",
        "duration": f"{comparison.duration_seconds:,.0f} s",
        "warm-up": f"{comparison.warm_up_seconds:,.0f} s, not counted",
        **_targets(comparison),
        **comparison.facts,
    }
    lines = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>\n" for k, v in facts.items())
    return f'<dl class="facts">\n{lines}</dl>\n'


def _targets(comparison: Comparison) -> Mapping[str, str]:
    """SLO targets of each service class, by its label."""
    classes = [item for result in comparison.results for item in result.classes]
    several = len({item.model for item in classes}) > 1
    return {
        f"SLO, {item.service_class}" + (f", {item.model}" if several else ""): (
            f"TTFT ≤ {tables.target_ms(item.ttft_target_ms)},"
            f" ITL ≤ {tables.target_ms(item.itl_target_ms)}"
        )
        for item in classes
    }


def _table(comparison: Comparison) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in tables.COLUMNS)
    lines = "".join(_line(comparison, row) for row in tables.rows(comparison))
    return (
        f"<section>\n<h2>Results</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n"
        f'</table>\n<p class="note">{escape(_ABOUT)}</p>\n</section>\n'
    )


def _line(comparison: Comparison, row: tables.Row) -> str:
    scored = row.service_class or row.result
    met = scored.within >= tables.GOAL
    first, *others = row.cells
    kind, mark = ("met", "✓") if met else ("missed", "✗")
    cells = [f'<td class="{kind}" data-name="{tables.COLUMNS[1]}">{mark} {escape(first)}</td>']
    cells += [
        f'<td data-name="{escape(name)}">{escape(cell)}</td>'
        for name, cell in zip(tables.COLUMNS[2:], others, strict=True)
    ]
    kind = "class" if row.service_class else "policy"
    chip = "" if row.service_class else _chip(comparison, row.result)
    return (
        f'<tr class="{kind}"><th scope="row">{chip}{escape(row.label)}</th>{"".join(cells)}</tr>\n'
    )


def _section(comparison: Comparison, variant: str) -> str:
    view = plots.view(comparison, variant)
    shown = [item for item in comparison.results if variant in item.curves]
    cards = "".join(_card(comparison, item, variant, view) for item in shown)
    key = {
        "solid": "ready, in the policy's colour",
        "area": "starting or draining",
        "dots": "desired by the policy",
        **({"dash": "clairvoyant"} if comparison.bound else {}),
        "slo": "SLO",
        "over": "above the strictest SLO",
        "warm": "warm-up",
    }
    signs = "".join(f'<span><i class="{sign}"></i>{name}</span>' for sign, name in key.items())
    return (
        f'<section>\n<h2>{_text(variant)} over time</h2>\n<p class="key">{signs}</p>\n'
        '<p class="note">All policies share the same scales; outliers are cut off.</p>\n'
        f'<div class="cards">\n{cards}</div>\n</section>\n'
    )


def _card(comparison: Comparison, result: PolicyResult, variant: str, view: plots.View) -> str:
    ratio = comparison.cost_ratio(result)
    price = f"{tables.ratio(ratio)} bound" if ratio is not None else (
        f"{result.cost_cents:,.0f} cents"
    )  # fmt: skip
    notes = "".join(f'<p class="note">{_text(note)}</p>\n' for note in result.notes)
    return (
        f'<figure class="card"><figcaption><h3>{_chip(comparison, result)}{_text(result.title)}</h3>'
        f"<p>{tables.percent(result.within)} within SLO · {price} ·"
        f" {result.scale_ups + result.scale_downs} scalings</p></figcaption>\n"
        f"{plots.over_time(comparison, result, variant, view)}<div>{notes}</div></figure>\n"
    )
