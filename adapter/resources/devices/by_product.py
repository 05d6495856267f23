"""Types of GPUs by what a device type may mean: thousands of one are not compared with each of the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from adapter.resources.devices import products


class _Type(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def product(self) -> str: ...
    @property
    def memory_gib(self) -> float | None: ...
    @property
    def coarse(self) -> bool: ...


Kind = TypeVar("Kind", bound=_Type)


class ByProduct(Generic[Kind]):
    """Index of GPU types by product: a device type is compared with few of them, however many there are."""

    def __init__(self, types: Iterable[Kind]) -> None:
        self._by_words: dict[tuple[str, ...], list[Kind]] = defaultdict(list)
        self._by_chip: dict[str, dict[str, Kind]] = defaultdict(dict)
        self._coarse: set[str] = set()
        for item in types:
            self._by_words[products.spelt(item.product)[0]].append(item)
            for chip in products.chips(item.product):
                self._by_chip[chip][item.name] = item
            if item.coarse:
                # Only a cloud's label names the product, which says less than the vendor's.
                self._coarse.add(item.product)

    def matching(self, device: str) -> list[Kind]:
        """Types that a device type may mean, by the surest way in which any is meant."""
        of_words = self._by_words.get(products.spelt(device)[0], ())
        same = [item for item in of_words if products.same(device, item.product, item.memory_gib)]
        if same:
            return same
        sharing = {
            name: item
            for chip in sorted(products.chips(device))
            for name, item in self._by_chip.get(chip, {}).items()
        }
        among = [sharing[name] for name in sorted(sharing)]
        sized = [
            item for item in among if products.of_one_size(device, item.product, item.memory_gib)
        ]
        return sized or [
            item
            for item in among
            if item.product in self._coarse
            and products.alike(device, item.product, item.memory_gib)
        ]
