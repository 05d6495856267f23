"""Serve a list of requests on one engine: at given arrivals, or by clients that wait for their answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emulator.engines.protocol import Completion, VirtualEngine


def serve_open_loop(
    engine: VirtualEngine,
    *,
    arrival_ms: Sequence[float],
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
) -> list[Completion]:
    """Requests that arrive whatever the engine does; one completion for each, in the order of the arrivals.

    Args:
        engine: idle, nothing submitted yet.
        arrival_ms: by request, ascending.
        input_tokens: by request.
        output_tokens: by request.

    Raises:
        ValueError: as `submit`, and for sequences of different lengths.

    """
    for arrives_ms, inputs, outputs in zip(arrival_ms, input_tokens, output_tokens, strict=True):
        engine.submit(arrival_ms=arrives_ms, input_tokens=inputs, output_tokens=outputs)
    engine.advance(math.inf)
    return sorted(engine.take_completions(), key=lambda completion: completion.number)


def serve_closed_loop(
    engine: VirtualEngine,
    *,
    concurrency: int,
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
) -> list[Completion]:
    """So many clients, each of which sends the next request at the moment that its last one ends.

    The first requests arrive at 0 ms. Completions, arguments and errors as in `serve_open_loop`.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency: must be >= 1, not {concurrency}")
    lengths = iter(list(zip(input_tokens, output_tokens, strict=True)))
    served: list[Completion] = []
    ended_ms = [0.0] * concurrency
    while True:
        for at_ms, (inputs, outputs) in zip(ended_ms, lengths, strict=False):
            engine.submit(arrival_ms=at_ms, input_tokens=inputs, output_tokens=outputs)
        next_ms = engine.next_ms
        if next_ms == math.inf:
            return sorted(served, key=lambda completion: completion.number)
        engine.advance(next_ms)
        ended = engine.take_completions()
        served.extend(ended)
        ended_ms = [completion.last_token_ms for completion in ended]
