"""`variant-adapter analyze`: what one replica holds, and how many a rate needs."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from adapter.errors import InputError, UsageError
from adapter.formats import cases, plots

_CHUNK = 1 << 16


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Analyzes one replica at --rate, sizes it for --ttft, --itl and --tps, or both."
        " Times are in ms, rates in requests per second. With --jsonl, cases come from standard input,"
        " one JSON object a line, and every line is answered by one; a case that is wrong is answered"
        " with its error and does not change the exit status."
    )
    command.add_argument("--jsonl", action="store_true", help="cases from standard input")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    shape = command.add_argument_group("the replica")
    shape.add_argument("--alpha", type=float, metavar="MS", help="decode time of an empty batch")
    shape.add_argument("--beta", type=float, metavar="MS", help="and what each request adds")
    shape.add_argument("--gamma", type=float, metavar="MS", help="prefill time of an empty batch")
    shape.add_argument("--delta", type=float, metavar="MS", help="and what each token adds")
    shape.add_argument("--max-batch", type=float, metavar="N", help="requests in service")
    shape.add_argument("--max-queue", type=float, metavar="N", help="requests that wait (10 N)")
    shape.add_argument("--at-tokens", type=float, metavar="N", help="scales the max batch")
    load = command.add_argument_group("its load")
    load.add_argument("--input-tokens", type=float, metavar="N", help="per request, mean")
    load.add_argument("--output-tokens", type=float, metavar="N", help="per request, mean")
    rate = load.add_mutually_exclusive_group()
    rate.add_argument("--rate", type=float, metavar="RPS", dest="rate_rps", help="arrival rate")
    rate.add_argument("--rpm", type=float, metavar="RPM", help="the same, per minute")
    targets = command.add_argument_group("its service level")
    targets.add_argument("--ttft", type=float, metavar="MS", dest="target_ttft_ms")
    targets.add_argument("--itl", type=float, metavar="MS", dest="target_itl_ms")
    targets.add_argument("--tps", type=float, dest="target_tps", help="tokens per second, in all")
    targets.add_argument("--percentile", type=float, metavar="P", help="such as 95 (the mean)")
    targets.add_argument("--stability-margin", type=float, metavar="SHARE", help="(0.1)")
    targets.add_argument("--min-replicas", type=int, metavar="N", help="(0)")
    command.add_argument("--plot", type=Path, metavar="PNG", help="draw TTFT and ITL against rate")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer the cases of standard input, or the one of the flags."""
    given = {
        name: value
        for name in cases.Case.model_fields
        if (value := getattr(args, name, None)) is not None
    }
    if args.rpm is not None:
        given["rate_rps"] = args.rpm / 60
    if args.jsonl:
        if given or args.plot is not None:
            raise UsageError("--jsonl takes its cases from standard input, no other flags")
        return _stream(sys.stdin.buffer)
    found = json.loads(cases.answer_lines([json.dumps(given)])[0])
    if "error" in found:
        raise UsageError(str(found["error"]))
    if args.plot is not None:
        plots.write_analysis(cases.Case.model_validate(given), args.plot)
    if args.json:
        print(json.dumps(found))
    else:
        for line in _table(found, cases.Case.model_validate(given)):
            print(line)
    return 0


def _stream(source: BinaryIO) -> int:
    """Answer whatever has arrived, as one batch: no case waits for a later one."""
    try:
        for lines in _arrived(source):
            for answer in cases.answer_lines(lines):
                print(answer)
            sys.stdout.flush()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not UTF-8: {error}") from error
    return 0


def _arrived(source: BinaryIO) -> Iterator[list[str]]:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    rest = ""
    read = getattr(source, "read1", source.read)
    while data := read(_CHUNK):
        *lines, rest = (rest + decode(data)).split("\n")
        yield [line for line in lines if line.strip()]
    rest += decode(b"", final=True)
    if rest.strip():
        yield [rest]


def _table(found: dict[str, Any], case: cases.Case) -> Iterator[str]:
    if case.sizes:
        yield from _capacity(found, case)
    if "throughput_rps" not in found:
        return
    replicas = found.get("replicas", 1)
    if case.sizes:
        plural = "needs 1 replica; it" if replicas == 1 else f"needs {replicas} replicas; each"
        yield f"{case.rate_rps:g} req/s {plural} then has"
    else:
        yield f"One replica at {case.rate_rps:g} req/s"
    rows = (
        (
            "throughput",
            f"{found['throughput_rps']:.6g} req/s, {found['tokens_per_second']:.6g} tokens/s",
        ),
        ("TTFT", f"{found['ttft_ms']:.6g} ms"),
        ("ITL", f"{found['itl_ms']:.6g} ms"),
        ("waiting", f"{found['waiting_ms']:.6g} ms"),
        ("service", f"{found['service_ms']:.6g} ms"),
        ("response", f"{found['response_ms']:.6g} ms"),
        ("in service", f"{found['in_service']:.6g} of {found.get('max_batch', int(case.batch))}"),
        ("in queue", f"{found['in_queue']:.6g}"),
        ("utilization", f"{found['utilization']:.2%}, busy {found['busy']:.2%}"),
        ("blocking", f"{found['blocking']:.3g}"),
    )
    for name, text in rows:
        yield f"  {name:<12} {text}"
    if case.percentile is not None:
        yield (
            f"  p{case.percentile:g}: waiting {found['waiting_percentile_ms']:.6g} ms,"
            f" TTFT {found['ttft_percentile_ms']:.6g} ms, ITL {found['itl_percentile_ms']:.6g} ms"
        )


def _capacity(found: dict[str, Any], case: cases.Case) -> Iterator[str]:
    of = "means" if case.percentile is None else f"p{case.percentile:g}"
    yield f"One replica, max batch {found['max_batch']}, targets on {of}"
    for name, target, unit in (
        ("ttft", case.target_ttft_ms, "ms"),
        ("itl", case.target_itl_ms, "ms"),
        ("tps", case.target_tps, "tokens/s"),
    ):
        if target is None:
            continue
        most = found[f"max_rate_{name}_rps"]
        text = "cannot be met" if most is None else f"up to {most:.6g} req/s"
        yield f"  {name.upper():<12} {target:g} {unit}: {text}"
    if found["infeasible"] is not None:
        yield f"  infeasible   {found['infeasible']['reason']}"
    else:
        yield (
            f"  holds        {found['max_rate_rps']:.6g} req/s = {found['max_rate_rps'] * 60:.6g} req/min,"
            f" bound by {found['binding']}"
        )
