"""Readers of what comes line by line: watches, and trace files."""

from __future__ import annotations

import functools
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import structlog

if TYPE_CHECKING:
    from adapter.kube.informer import Source

WATCHES = (
    """{"type":"ADDED","object":{"metadata":{"namespace":"n","name":"a","labels":{"a":"b"}}}}
{"type":"DELETED","object":{"metadata":{"namespace":"n","name":"a","resourceVersion":"7"}}}""",
    '{"type":"ERROR","object":{"kind":"Status","code":410,"message":"gone","details":{}}}',
    '{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}',
)

TRACES = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n",
    '{"timestamp": 1, "input_length": 5, "output_length": 6, "hash_ids": [1]}\n',
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,m,4,1,5,x\n",
)


def watch(text: str) -> None:
    """Lines of a watch, by the informer, which has the next event in any case."""
    from adapter.kube import errors, informer  # noqa: PLC0415 - instrumented before it is loaded
    from adapter.kube.bodies import documents  # noqa: PLC0415 - see above

    # Of no source: it is never run.
    copy = informer.Informer(cast("Source", None), "/api/v1/pods")
    good = '{"type": "ADDED", "object": {"metadata": {"namespace": "n", "name": "good"}}}'
    for line in (*text.encode(errors="surrogatepass").split(b"\n"), good.encode()):
        try:
            event = documents.event(json.loads(line))
            if event["type"] == "ERROR":
                str(errors.of_object(event["object"], path=copy.path))
        except (ValueError, RecursionError):
            continue  # those that the client translates
        with structlog.testing.capture_logs():  # of objects that are left out
            version = copy._apply(event)
        assert isinstance(version, str)
    assert ("n", "good") in copy.objects


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for all trace files of this process."""
    return tempfile.TemporaryDirectory()


def trace(text: str) -> None:
    """A trace file, of the format that its beginning shows, or that it is said to have."""
    from emulator import trace_files  # noqa: PLC0415 - see above
    from emulator.traces import TraceError  # noqa: PLC0415 - see above

    forms = (None, *get_args(trace_files.Format))
    path = Path(_folder().name, "trace")
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        requests = trace_files.read(path, format=forms[len(text) % len(forms)])
    except TraceError:
        return
    times = requests.arrival_seconds
    assert len(times)
    assert all(0 <= time < math.inf for time in times)
    assert all(before <= after for before, after in itertools.pairwise(times))
