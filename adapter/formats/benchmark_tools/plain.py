"""CSV of one's own: a header with the columns of `COLUMNS`, and a line each run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapter.errors import InputError
from adapter.formats.benchmark_tools.rows import Row, UnusableError, check_failed

COLUMNS = {
    "batch": ("batch", "batch_size", "concurrency", "max_concurrency"),
    "input_tokens": ("input_tokens", "in_tokens", "prompt_tokens", "input_len", "isl"),
    "output_tokens": ("output_tokens", "out_tokens", "generated_tokens", "output_len", "osl"),
    "itl_ms": ("itl_ms", "itl", "mean_itl_ms", "tpot_ms", "tpot", "mean_tpot_ms"),
    "ttft_ms": ("ttft_ms", "ttft", "mean_ttft_ms"),
    "rate_rps": (
        "request_throughput",
        "throughput_rps",
        "requests_per_second",
        "request_rate",
        "rate",
        "rate_rps",
        "rps",
        "qps",
    ),
    "finished": (
        "completed",
        "finished",
        "successful",
        "successful_requests",
        "completed_requests",
    ),
    "failed": ("failed", "errored", "errors", "failed_requests", "errored_requests"),
}
"""Accepted names of each column, the first that is there counts; case, spaces and dashes are ignored.

`rate_rps` is used where a row has no concurrency. Finished requests per second stand before sent ones:
what a saturated server does not finish is not inside by Little's law, but in the queue of the tool.
"""

ABSENT = frozenset({"none", "null", "n/a", "-"})
"""Cells that hold no value."""
_COUNTS = frozenset({"finished", "failed"})
"""Columns that say whether a row may be used."""
_MOST_SHOWN = 80
"""Most characters of a header that an error shows."""


_TRACE = frozenset({"contexttokens", "generatedtokens", "response_tokens"})
"""Columns of traces of requests, which no benchmark has."""


def _places(
    path: Path, lines: list[list[str]], start: int
) -> tuple[dict[str, int | None], set[str]]:
    """Column of each name of `COLUMNS`, and the names whose columns are in seconds."""
    header = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in lines[0]] if lines else []
    header = [re.sub(r"_?\[([^\[\]]{1,20})\]$", r"_(\1)", name) for name in header]
    header = [re.sub(r"_?\((s|ms)\)$", r"_\1", name) for name in header]
    header = [re.sub(r"_?\((req|requests)/s(ec|econd)?\)$", "", name) for name in header]
    header = [_of_mean(name, header) for name in header]
    places: dict[str, int | None] = {}
    seconds: set[str] = set()
    for name, aliases in COLUMNS.items():
        places[name] = next((header.index(alias) for alias in aliases if alias in header), None)
        in_seconds = [alias.replace("_ms", "") + "_s" for alias in aliases]
        if name.endswith("_ms") and places[name] is None:
            places[name] = next((header.index(one) for one in in_seconds if one in header), None)
            seconds.add(name)
    for name in ("batch", "itl_ms"):
        if places[name] is None and not (name == "batch" and places["rate_rps"] is not None):
            columns = ", ".join(header)[:_MOST_SHOWN]
            trace = "; a trace of requests is for replay --trace" if _TRACE & {*header} else ""
            instead = " (or a rate: request_throughput, request_rate)" if name == "batch" else ""
            raise InputError(
                f"{path}: no column {name}; may be called {', '.join(COLUMNS[name])}{instead};"
                f" line {start + 1} has {columns}{trace}"
            )
    used = [header[column] for column in places.values() if column is not None]
    refuse_repeated(path, header, used, start)
    if places["ttft_ms"] is not None and places["input_tokens"] is None:
        raise InputError(f"{path}: a column ttft_ms needs a column input_tokens beside it")
    return places, seconds


def refuse_repeated(path: Path, header: Sequence[str], used: Sequence[str], start: int) -> None:
    """Refuse a header that has a column that is used twice: nothing says which of them holds.

    Raises:
        InputError: names the line, of number `start` + 1, and the column.

    """
    for name in used:
        if name and header.count(name) > 1:
            raise InputError(
                f"{path}: line {start + 1} has the column {name} twice; delete one of them"
            )


def _of_mean(name: str, header: list[str]) -> str:
    """The column's name without the word that says mean, such as `ttft_ms` of `ttft_mean_ms`."""
    short = re.sub(r"^(?:mean|avg|average)_|_(?:mean|avg|average)(?=$|_m?s$)", "", name)
    return name if short in header else short


def plain(path: Path, lines: list[list[str]], start: int) -> Iterator[Row]:
    """Rows of `lines`, whose header is the line before number `start` + 2 of the file.

    Raises:
        InputError: a column is missing; names it.

    """
    places, seconds = _places(path, lines, start)
    for number, cells in enumerate(lines[1:], start=start + 2):
        if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
            continue
        values: dict[str, float] = {}
        problems = []
        for name, column in places.items():
            if name == "rate_rps" and not math.isnan(values["batch"]):
                continue  # The rate is not needed: vLLM's is "inf" where a concurrency limits it.
            cell = cells[column].strip() if column is not None and column < len(cells) else ""
            values[name] = _cell(cell) * (1000.0 if name in seconds else 1.0)
            if name in _COUNTS:
                continue  # A column of errors may hold their texts.
            if cell and cell.lower() not in ABSENT and math.isnan(values[name]):
                problems.append(f"{name}: must be a number >= 0, not {cell!r}{_comma(cell)}")
        rate = values.get("rate_rps", math.nan)
        derived = math.isnan(values["batch"]) and rate > 0
        if derived:
            values["batch"] = _inside(rate, values)
        if math.isnan(values["batch"]) and not problems:
            needed = " and does not follow from the rate without ttft_ms, itl_ms and output_tokens"
            problems.append(f"batch: is missing{needed if derived else ''}")
        if math.isnan(values["itl_ms"]) and math.isnan(values["ttft_ms"]) and not problems:
            problems.append("itl_ms: is missing")
        try:
            check_failed(values["finished"], values["failed"], "completed")
        except UnusableError as error:
            problems.append(str(error))
        yield Row(
            place=f"{path}:{number}",
            batch=values["batch"],
            input_tokens=values["input_tokens"],
            output_tokens=values["output_tokens"],
            itl_ms=values["itl_ms"],
            ttft_ms=values["ttft_ms"],
            throughput_rps=rate if derived else math.nan,
            open_loop=derived,
            problem="; ".join(problems),
            note=_derived(values["batch"], rate) if derived and not problems else "",
        )


def _inside(rate: float, values: dict[str, float]) -> float:
    """Requests inside, rate * (TTFT + (output - 1) * ITL) (Little 1961); NaN where one is missing."""
    decode_ms = (values["output_tokens"] - 1.0) * values["itl_ms"]
    return rate * (values["ttft_ms"] + decode_ms) / 1000.0


def _derived(batch: float, rate: float) -> str:
    return (
        f"batch: derived by Little's law, {rate:g} requests per second x (TTFT + (output_tokens - 1) x ITL)"
        f" = {batch:.4g}; arrivals are taken not to wait for responses"
    )


def _comma(cell: str) -> str:
    """The fix of a comma in a number; empty of anything else."""
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?", cell):
        return f"; write thousands without a comma, such as {cell.replace(',', '')}"
    if re.fullmatch(r"\d+,\d+", cell) is None:
        return ""
    return f"; write decimals with a point, such as {cell.replace(',', '.')}"


def _cell(text: str) -> float:
    """A number >= 0; NaN where the cell has none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 <= value < math.inf else math.nan
