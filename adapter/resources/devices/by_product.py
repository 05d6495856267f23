"""Types of GPUs by what a device type may mean: thousands of one are not compared with each of the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
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

ResourceOnNode = tuple[str, str]
"""Node and resource."""


class _OfNode(Protocol):
    @property
    def key(self) -> ResourceOnNode: ...
    @property
    def node(self) -> str: ...
    @property
    def product(self) -> str: ...
    @property
    def memory_gib(self) -> float | None: ...


def given_twice(
    by_plugin: Iterable[_OfNode], published: Iterable[_OfNode]
) -> Mapping[ResourceOnNode, ResourceOnNode]:
    """Where a device plugin gives the GPUs that a driver publishes too: both are the same ones, once.

    Clusters that move from one to the other have both for a time, and each counts all GPUs of the node.
    """
    on_node: dict[str, list[_OfNode]] = defaultdict(list)
    for pool in by_plugin:
        if pool.product:
            on_node[pool.node].append(pool)
    return {
        pool.key: other.key
        for pool in published
        for other in on_node.get(pool.node, ())
        if products.same(other.product, pool.product, pool.memory_gib)
        or products.alike(other.product, pool.product, pool.memory_gib)
    }


class ByProduct(Generic[Kind]):
    """Index of GPU types by product: a device type is compared with few of them, however many there are."""

    def __init__(self, types: Iterable[Kind]) -> None:
        self._by_name: dict[str, Kind] = {}
        self._by_words: dict[tuple[str, ...], list[Kind]] = defaultdict(list)
        self._by_chip: dict[str, dict[str, Kind]] = defaultdict(dict)
        self._coarse: set[str] = set()
        for item in types:
            self._by_name[item.name] = item
            self._by_words[products.spelt(item.product)[0]].append(item)
            for chip in products.chips(item.product):
                self._by_chip[chip][item.name] = item
            if item.coarse:
                # Only a cloud's label names the product, which says less than the vendor's.
                self._coarse.add(item.product)

    def in_turn(self, devices: Iterable[str]) -> list[str]:
        """Device types in the order in which they get GPUs: a type's very name before other spellings."""
        return sorted(devices, key=lambda device: (device not in self._by_name, device))

    def meant(self, device: str) -> list[Kind]:
        """Types that a device type may mean: the one of that very name, else those that it may spell."""
        exact = self._by_name.get(device)
        return self.matching(device) if exact is None else [exact]

    def counted_as(self, priced: Iterable[str], others: Iterable[str]) -> dict[str, str]:
        """Device types under which the GPUs of others are counted; without those that mean no one type.

        Whoever creates a variant has a say in how its GPU is spelt: none takes what others mean, and two that
        mean one type share it.

        Args:
            priced: device types that have a price, which have their GPUs under their own name.
            others: those that only variants price.

        """
        holders: dict[str, str] = {}
        for device in self.in_turn(priced):
            if (name := self._one(device)) is not None:
                holders.setdefault(name, device)
        names = {device: self._one(device) or self._only(device) for device in others}
        return {device: holders.get(name, name) for device, name in names.items() if name}

    def _one(self, device: str) -> str | None:
        """Name of the only type that a device type may mean."""
        types = self.meant(device)
        return types[0].name if len(types) == 1 else None

    def _only(self, device: str) -> str | None:
        """Name of the only type of which a device type says less, such as `H100` of one of that chip."""
        sharing = self._alike(device)
        return sharing.pop() if len(sharing) == 1 else None

    def _alike(self, device: str) -> set[str]:
        return {
            item.name
            for chip in products.chips(device)
            for item in self._by_chip.get(chip, {}).values()
            if products.alike(device, item.product, item.memory_gib)
        }

    def unclear(self, device: str) -> list[str]:
        """Names of the types that a device type may mean, as `H100` of two kinds; empty for one."""
        names = {item.name for item in self.meant(device)} or self._alike(device)
        return sorted(names) if len(names) > 1 else []

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
