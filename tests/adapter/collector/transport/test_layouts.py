"""Pages of one layout: what is read of them is what the parser reads of each alone."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import pytest

from adapter.collector import exposition
from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import spelling
from adapter.collector.transport import layouts

PAGES = Path(__file__).parents[3] / "data/metrics"
EXPECTED = json.loads((PAGES / "expected.json").read_text())
URL = "http://x"

PAGE = """\
# HELP vllm:num_requests_running Number of requests.
vllm:num_requests_running{model_name="m",engine="0"} 1.0
vllm:num_requests_waiting{model_name="m",engine="0"} 2.0
vllm:request_success_total{model_name="m",engine="0"} 30.0
python_info 4.0
vllm:time_to_first_token_seconds_count{model_name="m"} 5.0
vllm:time_to_first_token_seconds_sum{model_name="m"} 6.0
vllm:time_to_first_token_seconds_bucket{le="1.0",model_name="m"} 3.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 5.0
process_start_time_seconds 1.7e+09
"""


def result(parse: object, text: str, model: str) -> PodMetrics | str:
    """What is made of a page, or its error."""
    try:
        return parse(text, model)  # type: ignore[operator, no-any-return]
    except exposition.ScrapeError as error:
        return f"{type(error).__name__}: {error}"


class Fresh:
    """The parser with layouts, and without: both from an empty memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.kept = layouts.Layouts(spelling.Names())
        self.parsed = 0

    def with_layouts(self, text: str, model: str) -> PodMetrics | str:
        self._patch.setattr(exposition, "_LAYOUTS", self.kept)
        return result(lambda t, m: exposition.parse(t, m, URL), text, model)

    def alone(self, text: str, model: str) -> PodMetrics | str:
        self._patch.setattr(exposition, "_LAYOUTS", layouts.Layouts(spelling.Names()))
        return result(lambda t, m: exposition.parse(t, m, URL), text, model)


@pytest.fixture(name="fresh")
def fresh_parsers(monkeypatch: pytest.MonkeyPatch) -> Fresh:
    return Fresh(monkeypatch)


def numbered(text: str, source: random.Random) -> str:
    """The page with other numbers, some of them written in odd ways."""
    written = []
    for line in text.split("\n"):
        head, space, word = line.rpartition(" ")
        odd = source.choice(["NaN", "+Inf", "-1", "1e5", "1.5.2", "", "0x1", "1_0", "7\r", "٣"])
        number = odd if source.random() < 0.01 else repr(source.random() * 1e4)
        written.append(head + space + (number if source.random() < 0.5 else word))
    return "\n".join(written)


def changed(text: str, source: random.Random) -> str:
    """The page with one line changed, moved, doubled or lost."""
    shown = text.split("\n")
    place, other = source.randrange(len(shown)), source.randrange(len(shown))
    kind = source.randrange(8)
    if kind == 0:
        del shown[place]
    elif kind == 1:
        shown.insert(place, shown[other])
    elif kind == 2:
        shown[place], shown[other] = shown[other], shown[place]
    elif kind == 3:
        shown[place] = shown[place].replace(" ", "\t", 1)
    elif kind == 4:
        shown[place] += ' # {trace="x"} 1.0 1700000000.0'
    elif kind == 5:
        shown[place] = f"  {shown[place]}"
    elif kind == 6:
        shown[place] = shown[place].replace('"', '"other', 1)
    else:
        shown[place] += " 1700000000"
    return "\n".join(shown)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_pages_of_known_layouts_are_read_as_if_alone(name: str, fresh: Fresh) -> None:
    """Whatever a page's numbers are, and whatever is changed after its layout is known."""
    source = random.Random(name)  # noqa: S311 - numbers of pages
    text, model = (PAGES / name).read_text(), EXPECTED[name].get("model", "m")
    shown = [text, text, text]
    shown += [numbered(text, source) for _ in range(8)]
    shown += [changed(numbered(text, source), source) for _ in range(8)]
    # Each a second time, when its own layout is known, and a third one with other numbers.
    shown += [numbered(item, source) for item in shown[3:]] + shown[3:]
    for item in shown:
        assert repr(fresh.with_layouts(item, model)) == repr(fresh.alone(item, model))


def test_the_third_page_of_a_layout_is_not_parsed() -> None:
    """The first one is remembered, of the second one the layout."""
    kept, parsed = layouts.Layouts(spelling.Names()), []

    def parse(text: str) -> layouts.Selected:
        parsed.append(text)
        return exposition._selected(text, "m", URL)

    for number in range(5):
        page = kept.selected(PAGE.replace(" 30.0", f" {number}.0"), "m", parse)
        assert page.series[2][2] == number
        assert page.started_at == 1.7e9
        assert [list(values) for _, values in page.latencies] == [[3.0, 5.0], [], []]
    assert len(parsed) == 3


@pytest.mark.parametrize(
    "other",
    [
        PAGE.replace("python_info", "vllm:num_preemptions_total"),
        PAGE.replace('engine="0"} 1.0', 'engine="0"} 1.0 1700000000'),
        PAGE.replace('waiting{model_name="m"', 'waiting{model_name="n"'),
        PAGE.replace(
            "python_info 4.0", 'vllm:num_requests_running{model_name="m",engine="1"}\t4.0'
        ),
        PAGE.replace(
            "python_info 4.0", '{"vllm:num_requests_running",model_name="m",engine="1"} 4'
        ),
        PAGE.replace("python_info 4.0", ' vllm:num_requests_running{engine="1"}\t4.0'),
        PAGE.replace(" 1.0\n", " 1_0\n"),
        PAGE.replace(" 1.0\n", " infinity\n"),
        PAGE.replace(" 1.0\n", "\n"),
    ],
)
def test_a_page_of_almost_the_same_layout_is_read_as_it_is(other: str, fresh: Fresh) -> None:
    for text in (PAGE, PAGE, PAGE, other, other, other, PAGE, other):
        assert repr(fresh.with_layouts(text, "m")) == repr(fresh.alone(text, "m"))


@pytest.mark.parametrize("form", ["  {}\t4.0", '{{"{}" }} 4.0', '{{"a" ,"{}"}} 4.0'])
def test_names_that_no_head_has_are_read_each_time(form: str, fresh: Fresh) -> None:
    """Two pages that differ in a name only, which stands where numbers usually do."""
    one, other = (
        PAGE.replace("python_info 4.0", form.format(name))
        for name in ("python_info", "vllm:num_requests_running")
    )
    for text in (one, one, one, other, other, one):
        assert repr(fresh.with_layouts(text, "m")) == repr(fresh.alone(text, "m"))


@pytest.mark.parametrize("name", [name for name in sorted(EXPECTED) if name.startswith("vllm")])
def test_pages_of_every_version_are_selected_once(name: str) -> None:
    """Long lines, such as the one with the configuration of the cache, are read as the others."""
    kept, parsed = layouts.Layouts(spelling.Names()), []
    text, model = (PAGES / name).read_text(), EXPECTED[name].get("model", "m")

    def parse(shown: str) -> layouts.Selected:
        parsed.append(shown)
        return exposition._selected(shown, model, URL)

    pages = [kept.selected(text, model, parse) for _ in range(4)]
    assert len(parsed) == 3  # for the places of the numbers once more
    assert pages[3].series == pages[0].series


@pytest.mark.parametrize("number", ["garbage", "", "1.5.2", "1" * 17_000])
@pytest.mark.parametrize(
    "line",
    [
        'vllm:num_requests_running{model_name="other"}',
        'vllm:num_requests_running{model_name="m",engine="0"}',
        "ray_vllm_num_requests_running",
        "tgi_queue_size",
        'vllm:time_to_first_token_seconds_bucket{le="1.0",model_name="m"}',
    ],
)
def test_lines_that_are_read_and_not_selected_are_checked(
    line: str, number: str, fresh: Fresh
) -> None:
    one, other = (PAGE + f"{line} {word}\n" for word in ("4.0", number))
    for text in (one, one, one, other, one, PAGE.replace(" 1.0\n", f" {number}\n")):
        assert repr(fresh.with_layouts(text, "m")) == repr(fresh.alone(text, "m"))


def select(kept: layouts.Layouts, model: str, more: str = "") -> bool:
    """Read a page of that model; whether the parser was not needed."""
    parsed = []

    def parse(text: str) -> layouts.Selected:
        parsed.append(text)
        return exposition._selected(text, model, URL)

    page = kept.selected(PAGE.replace('"m"', f'"{model}"') + more, model, parse)
    assert page.series[0][1]["model_name"] == model
    return not parsed


def test_layouts_of_many_servers_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "MOST_PARTS", 100)
    kept = layouts.Layouts(spelling.Names())
    for number in range(20):
        assert [select(kept, f"m{number}") for _ in range(3)] == [False, False, True]
    assert 0 < len(kept._known) < 8


def test_labels_and_their_text_take_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a pod decides how many labels a line has, and how long they are."""
    monkeypatch.setattr(layouts, "MOST_PARTS", 400)
    for labels in (",".join(f'l{n}=""' for n in range(200)), f'l="{"x" * 3900}"'):
        kept = layouts.Layouts(spelling.Names())
        for number in range(20):
            lines = "".join(f'vllm:num_requests_swapped{{n="{n}",{labels}}} 0\n' for n in "abc")
            assert [select(kept, f"m{number}", lines) for _ in range(3)] == [False, False, True]
        assert 0 < len(kept._known) < 8


def test_more_layouts_than_there_is_room_for_leave_some_of_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all take turns, some stay; and make room once their pages are gone."""
    monkeypatch.setattr(layouts, "MOST_PARTS", 100)
    kept = layouts.Layouts(spelling.Names())
    turns = [[select(kept, f"m{number}") for number in range(20)] for _ in range(5)]
    assert sum(turns[-1]) == len(kept._known) > 2
    gone = turns[-1].index(True)
    rest = [[select(kept, f"m{n}") for n in range(20) if n != gone] for _ in range(3)]
    assert sum(rest[-1]) == sum(turns[-1])


def test_layouts_of_lines_with_many_labels_take_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 100,000 lines, whatever their labels, one tenant's layouts took 1.2 GiB."""
    monkeypatch.setattr(layouts, "MOST_PARTS", 30_000)
    kept = layouts.Layouts(spelling.Names())
    many = "".join(f'l{number:03}="",' for number in range(100))
    tracemalloc.start()
    try:
        for number in range(40):
            series = "".join(
                f'vllm:num_requests_running{{{many}k="{number}.{place}"}} 1\n'
                for place in range(100)
            )
            for _ in range(2):
                kept.selected(series + PAGE, "m", lambda text: exposition._selected(text, "m", URL))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept._known
    assert taken < 250 * layouts.MOST_PARTS


def test_a_number_that_one_page_lacks_leaves_the_layout_to_others() -> None:
    """One tenant's page without it kept all of that layout from being selected once, also another's."""
    kept, parsed = layouts.Layouts(spelling.Names()), []

    def parse(text: str) -> layouts.Selected:
        parsed.append(text)
        return exposition._selected(text, "m", URL)

    lacking = PAGE.replace('{le="1.0",model_name="m"} 3.0', '{le="1.0",model_name="m"}')
    for text in (lacking, lacking, lacking, PAGE):
        kept.selected(text, "m", parse)
    parsed.clear()
    kept.selected(PAGE, "m", parse)
    assert not parsed
