"""How much a forward pass keeps for its gradient: bytes, the same on every device, to compare methods by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class KeptForGradient:
    """Distinct storages that were saved for the way back, by address; weights are among them where they are needed."""

    storages: dict[int, int] = field(default_factory=dict)
    _alive: list[Any] = field(default_factory=list)  # so that no address is used twice

    @property
    def num_bytes(self) -> int:
        return sum(self.storages.values())


@contextmanager
def kept_for_gradient(modules: tuple[Any, ...] = ()) -> Iterator[KeptForGradient]:
    """Count what is saved inside. modules: their weights do not count, they are there anyway."""
    import torch

    own = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    kept = KeptForGradient()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in kept.storages:
            kept.storages[storage.data_ptr()] = storage.nbytes()
            kept._alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def parameter_bytes(*modules: Any) -> int:
    """Bytes of all weights."""
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
