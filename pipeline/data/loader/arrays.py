"""The arrays of a batch in one flat piece of memory, which processes may share and batches reuse."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import finalize

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from pipeline.data.modality import IGNORE_INDEX

LONGEST_KEY = 80
ABSENT: dict[str, float] = {"rgb": 0, "depth": np.nan, "seg": IGNORE_INDEX}
"""What fills a row that lacks a modality."""

_ALIGNMENT = 64
_DTYPES: dict[str, np.dtype[Any]] = {
    "rgb": np.dtype(np.uint8),
    "depth": np.dtype(np.float32),
    "seg": np.dtype(np.uint8),
}


@dataclass(frozen=True)
class Layout:
    """What a sample looks like in memory.

    Attributes:
        modalities: In the order rgb, depth, seg.
        image_size: Height and width.
        corrupted: Whether beside every sample there is what encoders see of it.
    """

    modalities: tuple[str, ...]
    image_size: int
    corrupted: bool = False

    def shape(self, modality: str) -> tuple[int, ...]:
        """Of one picture."""
        size = self.image_size
        return (size, size, 3) if modality == "rgb" else (size, size)

    def dtype(self, modality: str) -> np.dtype[Any]:
        """Of one value."""
        return _DTYPES[modality]

    def sample_bytes(self) -> int:
        """Memory of one decoded sample, its key included."""
        pictures = sum(prod(self.shape(m)) * self.dtype(m).itemsize + 1 for m in self.modalities)
        return pictures + LONGEST_KEY

    def bytes_for(self, rows: int) -> int:
        """Memory of so many samples."""
        return sum(size for *_, size in self._parts(rows))

    def arrays(self, memory: Any, rows: int) -> "Arrays":
        """Views of a piece of memory of `bytes_for(rows)` bytes."""
        flat: UInt8[np.ndarray, " byte"] = np.frombuffer(memory, np.uint8)
        views, start = {}, 0
        for name, dtype, shape, size in self._parts(rows):
            used = prod(shape) * dtype.itemsize
            views[name] = flat[start : start + used].view(dtype).reshape(shape)
            start += size

        def arrays(whose: str, seen: Arrays | None = None) -> Arrays:
            return Arrays(
                value={m: views[whose + m] for m in self.modalities},
                present={m: views[f"has {whose}{m}"] for m in self.modalities},
                key=views["key"],
                memory=flat,
                seen=seen,
            )

        return arrays("", arrays("seen ") if self.corrupted else None)

    def _parts(self, rows: int) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
        parts: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []
        for whose in ("", "seen ") if self.corrupted else ("",):
            parts += [(whose + m, self.dtype(m), (rows, *self.shape(m))) for m in self.modalities]
            parts += [(f"has {whose}{m}", np.dtype(bool), (rows,)) for m in self.modalities]
        parts += [("key", np.dtype((np.bytes_, LONGEST_KEY)), (rows,))]
        return [
            (name, dtype, shape, -(-prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT)
            for name, dtype, shape in parts
        ]


@dataclass(frozen=True)
class Arrays:
    """Decoded samples side by side.

    Attributes:
        value: rgb uint8 (row height width 3), depth float32 metres with NaN where invalid (row height
            width), seg uint8 with 255 where there is no label (row height width).
        present: False where a row lacks the modality; it is filled with 0, NaN or 255.
        key: Names of the samples.
        memory: What all of these are views of.
        seen: What encoders see in place of the samples; None: the samples.
    """

    value: dict[str, Shaped[np.ndarray, "row ..."]]
    present: dict[str, Bool[np.ndarray, " row"]]
    key: Shaped[np.ndarray, " row"]
    memory: UInt8[np.ndarray, " byte"]
    seen: "Arrays | None" = None

    def lacks(self, modality: str, row: int) -> None:
        """Fill a row that lacks a modality."""
        self.present[modality][row] = False
        self.value[modality][row] = ABSENT[modality]

    def keys(self) -> tuple[str, ...]:
        """Names of the samples as text."""
        return tuple(key.decode("ascii") for key in self.key.tolist())


class Slots:
    """Pieces of memory that are used again once nobody looks at the arrays made of them."""

    def __init__(self, memories: Sequence[Any]) -> None:
        self._memories = memories
        self._free = deque(range(len(memories)))  # its methods are atomic: views die in any thread

    def take(self) -> int | None:
        """A free slot, or None."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def give_back(self, slot: int) -> None:
        """Make a slot free again."""
        self._free.append(slot)

    def any_free(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def lend(self, layout: Layout, rows: int, slot: int) -> Arrays:
        """The arrays of a slot, which becomes free when the last view of them is gone."""
        arrays = layout.arrays(self._memories[slot], rows)
        finalize(arrays.memory, self.give_back, slot)
        return arrays
