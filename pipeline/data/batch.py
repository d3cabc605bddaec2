"""Samples side by side as tensors, with masks for what is absent or has no value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from pipeline.data.modality import IGNORE_INDEX


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

    def repeated(self, times: int) -> ModalityBatch:
        """The same rows several times, one block after the other."""
        return ModalityBatch(*(torch.cat([part] * times) for part in (self.value, self.present, self.valid)))

    def __getitem__(self, rows: slice | Tensor) -> ModalityBatch:
        return ModalityBatch(self.value[rows], self.present[rows], self.valid[rows])


@dataclass(frozen=True)
class Batch:
    """Aligned samples; every modality of the dataset has an entry, in the order rgb, depth, seg.

    Attributes:
        modalities: The samples: what is to be reconstructed.
        key: Their names.
        index: Their numbers.
        factors: Known factors; None if none is known.
        seen: The same rows as encoders see them, corrupted; None: as they are.
    """

    modalities: dict[str, ModalityBatch]
    key: tuple[str, ...]
    index: Int[Tensor, " batch"]
    factors: Int[Tensor, "batch factor"] | None = None
    seen: Batch | None = None

    def __len__(self) -> int:
        return len(self.key)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        moved = {name: modality.to(device) for name, modality in self.modalities.items()}
        seen = None if self.seen is None else self.seen.to(device)
        return replace(self, modalities=moved, index=self.index.to(device), seen=seen)

    def rows(self, start: int, stop: int) -> Batch:
        """Some neighbouring rows."""
        return Batch(
            {name: modality[start:stop] for name, modality in self.modalities.items()},
            self.key[start:stop],
            self.index[start:stop],
            None if self.factors is None else self.factors[start:stop],
            None if self.seen is None else self.seen.rows(start, stop),
        )

    def copied(self) -> Batch:
        """The same samples in tensors of their own, which autograd can use if it is on now."""
        modalities = {
            name: ModalityBatch(part.value.clone(), part.present.clone(), part.valid.clone())
            for name, part in self.modalities.items()
        }
        return replace(self, modalities=modalities, index=self.index.clone())

    def repeated(self, times: int) -> Batch:
        """The same rows several times, one block after the other."""
        if times == 1:
            return self
        modalities = {name: modality.repeated(times) for name, modality in self.modalities.items()}
        factors = None if self.factors is None else self.factors.repeat(times, 1)
        return Batch(modalities, self.key * times, self.index.repeat(times), factors)

    def inputs(self) -> Batch:
        """What encoders see."""
        return self if self.seen is None else self.seen

    def present(self) -> Bool[Tensor, "modality batch"]:
        """Which row has which modality."""
        return torch.stack([modality.present for modality in self.modalities.values()])


@dataclass(frozen=True)
class PackedBatch:
    """Aligned samples as they are stored: a quarter of the memory, and of the way to a GPU.

    Attributes:
        value: rgb uint8 (batch height width 3); depth float32 metres, NaN where invalid (batch height
            width); seg uint8, 255 where there is no label (batch height width).
        has: False where a row lacks the modality.
        key: As in `Batch`, like `index`, `factors` and `seen`.
    """

    value: dict[str, Shaped[Tensor, "batch ..."]]
    has: dict[str, Bool[Tensor, " batch"]]
    key: tuple[str, ...]
    index: Int[Tensor, " batch"]
    factors: Int[Tensor, "batch factor"] | None = None
    seen: PackedBatch | None = None

    def __len__(self) -> int:
        return len(self.key)

    def present(self) -> Bool[Tensor, "modality batch"]:
        """Which row has which modality."""
        return torch.stack(list(self.has.values()))

    def unpack(self) -> Batch:
        """The same samples as the model takes them."""
        return self.to("cpu")

    def to(self, device: torch.device | str) -> Batch:
        """Move to a device and unpack there."""
        modalities = {
            name: _UNPACK[name](value.to(device, non_blocking=True), self.has[name].to(device))
            for name, value in self.value.items()
        }
        seen = None if self.seen is None else self.seen.to(device)
        return Batch(modalities, self.key, self.index.to(device), self.factors, seen)


def _unpack_rgb(
    stored: UInt8[Tensor, "batch height width 3"], present: Bool[Tensor, " batch"]
) -> ModalityBatch:
    value = torch.empty(stored.permute(0, 3, 1, 2).shape, dtype=torch.float32, device=stored.device)
    value.copy_(stored.permute(0, 3, 1, 2)).div_(255)
    valid = present[:, None, None].expand(stored.shape[:3]).contiguous()
    return ModalityBatch(value, present.clone(), valid)


def _unpack_depth(
    stored: Float[Tensor, "batch height width"], present: Bool[Tensor, " batch"]
) -> ModalityBatch:
    valid = stored.isfinite()
    return ModalityBatch(torch.where(valid, stored, 0.0)[:, None], present.clone(), valid)


def _unpack_seg(
    stored: UInt8[Tensor, "batch height width"], present: Bool[Tensor, " batch"]
) -> ModalityBatch:
    return ModalityBatch(stored.long(), present.clone(), stored != IGNORE_INDEX)


_UNPACK = {"rgb": _unpack_rgb, "depth": _unpack_depth, "seg": _unpack_seg}
