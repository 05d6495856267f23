"""Requests that wait as all slots for LoRA adapters are taken, though the batch has room.

vLLM shows them in `lora_requests_info{max_lora, running_lora_adapters, waiting_lora_adapters}`,
names with commas between them. A page keeps a sample for each pair of lists that there ever was; its value is
the time of the last step that had it, Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SERIES = "vllm:lora_requests_info"
_SLOTS, _RUNNING, _WAITING = "max_lora", "running_lora_adapters", "waiting_lora_adapters"
LABELS = (_SLOTS, _RUNNING, _WAITING)

_LATEST = 3e9
"""Unix seconds in the year 2065: more is the sum of several processes, of which none can be the newest."""


def waiting(samples: Iterable[tuple[Mapping[str, str], float]]) -> float:
    """Adapters with requests that wait while others have all slots, by labels and values of the series.

    0 where nothing says so, which is no proof that none wait.
    """
    labels, newest = max(samples, key=lambda sample: sample[1])
    slots = labels.get(_SLOTS, "")
    # Written with a limit on digits, as int() takes long for very many.
    if not 0 < newest <= _LATEST or not (slots.isascii() and slots.isdigit() and len(slots) < 7):
        return 0.0
    running, wait = (set(labels.get(name, "").split(",")) - {""} for name in (_RUNNING, _WAITING))
    return float(len(wait - running)) if len(running) >= int(slots) > 0 else 0.0
