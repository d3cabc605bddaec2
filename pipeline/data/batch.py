"""Samples side by side as tensors, with masks for what is absent or has no value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class ModalityBatch:
    """One modality of a batch.

    Attributes:
        value: rgb float32 (batch 3 height width) in 0..1; depth float32 (batch 1 height width) in
            metres, 0 where invalid; seg int64 (batch height width), 255 where there is no label.
            A row that lacks the modality holds zeros (seg: 255).
        present: False where a row lacks the modality.
        valid: False where a pixel has no value; all False in rows that lack the modality.
    """

    value: Shaped[Tensor, "batch ..."]
    present: Bool[Tensor, " batch"]
    valid: Bool[Tensor, "batch height width"]

    def to(self, device: torch.device | str) -> ModalityBatch:
        """Move every tensor to a device."""
        return ModalityBatch(self.value.to(device), self.present.to(device), self.valid.to(device))

    def __getitem__(self, rows: slice | Tensor) -> ModalityBatch:
        return ModalityBatch(self.value[rows], self.present[rows], self.valid[rows])


@dataclass(frozen=True)
class Batch:
    """Aligned samples; every modality of the dataset has an entry, in the order rgb, depth, seg."""

    modalities: dict[str, ModalityBatch]
    key: tuple[str, ...]
    index: Int[Tensor, " batch"]
    factors: Int[Tensor, "batch factor"] | None = None

    def __len__(self) -> int:
        return len(self.key)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        moved = {name: modality.to(device) for name, modality in self.modalities.items()}
        return replace(self, modalities=moved, index=self.index.to(device))

    def rows(self, start: int, stop: int) -> Batch:
        """Some neighbouring rows."""
        return Batch(
            {name: modality[start:stop] for name, modality in self.modalities.items()},
            self.key[start:stop],
            self.index[start:stop],
            None if self.factors is None else self.factors[start:stop],
        )

    def present(self) -> Bool[Tensor, "modality batch"]:
        """Which row has which modality."""
        return torch.stack([modality.present for modality in self.modalities.values()])
