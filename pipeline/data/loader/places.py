"""Where the bytes of samples are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32

BLOCK = 512
"""What a tar is made of."""


@dataclass(frozen=True)
class Places:
    """Where the bytes of some samples are.

    Attributes:
        shard: Number of the tar in the order of `dataset.json`.
        first: Offset of the first modality's content.
        offset: Of each modality's content; -1 where the sample lacks it.
        size: Its bytes.
        check: CRC-32 of the key.
    """

    shard: Int64[np.ndarray, " row"]
    first: Int64[np.ndarray, " row"]
    offset: dict[str, Int64[np.ndarray, " row"]]
    size: dict[str, Int64[np.ndarray, " row"]]
    check: UInt32[np.ndarray, " row"]

    def __len__(self) -> int:
        return len(self.shard)
