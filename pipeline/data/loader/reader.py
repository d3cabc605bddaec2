"""From places in tars to arrays, without a copy where the tar holds the arrays themselves.

Needs neither torch nor the index, so that a worker process is small. One system call reads a sample: plain
arrays straight into the batch; members to be decoded, and what lies between (tar headers, npy headers),
aside. The headers say whether it is the sample that the index means.
"""

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.data.loader.arrays import LONGEST_KEY, Arrays, Layout
from pipeline.data.loader.files import ShardFiles
from pipeline.data.loader.places import BLOCK, Places
from pipeline.data.shards.members import decode, npy_header
from pipeline.errors import InputError

_NAME_BYTES, _SIZE_AT, _SIZE_BYTES = 100, 124, 11


@dataclass(frozen=True)
class Store:
    """What it takes to read the samples of one dataset.

    Attributes:
        files: Its tars.
        layout: What its samples look like.
        suffix: How each modality is stored (`npy`, `png`, ...).
        depth_scale_m: Metres per unit of a depth PNG.
    """

    files: ShardFiles
    layout: Layout
    suffix: dict[str, str]
    depth_scale_m: float


@dataclass
class Reader:
    """Reads samples of one dataset. Safe to share among threads.

    Attributes:
        store: What is read.
    """

    store: Store
    _plain: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        layout = self.store.layout
        self._plain = {
            m: npy_header(layout.dtype(m), layout.shape(m))
            for m in layout.modalities
            if self.store.suffix[m] == "npy"
        }

    def fill(self, places: Places, arrays: Arrays, rows: Int64[np.ndarray, " row"]) -> None:
        """Read samples into some rows of a batch.

        Raises:
            InputError: If a tar cannot be read, does not hold what the index says, or cannot be decoded.
        """
        shards, firsts, checks = places.shard.tolist(), places.first.tolist(), places.check.tolist()
        offsets = {m: places.offset[m].tolist() for m in places.offset}
        sizes = {m: places.size[m].tolist() for m in places.size}
        for number, row in enumerate(rows.tolist()):
            parts = [(offsets[m][number], sizes[m][number], m) for m in offsets if offsets[m][number] >= 0]
            parts.sort()
            for modality in arrays.value:
                if modality not in offsets or offsets[modality][number] < 0:
                    arrays.lacks(modality, row)
            name = self._read(shards[number], firsts[number], parts, arrays, row)
            key, _, rest = name.partition(b".")
            if zlib.crc32(key) != checks[number] or not rest.startswith(parts[0][2].encode()):
                raise InputError(
                    f"{self.store.files.name(shards[number])}: byte {firsts[number]} begins "
                    f"{name.decode(errors='replace')!r}, which is not what the index says; "
                    "write the dataset again"
                )
            arrays.key[row] = key

    def _read(
        self, shard: int, first: int, parts: list[tuple[int, int, str]], arrays: Arrays, row: int
    ) -> bytes:
        """Read one sample; the name of its first member."""
        pieces: list[Any] = []
        members: list[tuple[str, bytearray, bytes, Any]] = []
        at = end = first - BLOCK
        for offset, size, modality in parts:
            target, header = arrays.value[modality][row], self._plain.get(modality)
            if header is None or size != len(header) + target.nbytes:
                target, header = np.empty(size, np.uint8), b""
            gap = bytearray(offset - end + len(header))
            pieces += (gap, target)
            members.append((modality, gap, header, target))
            end = offset + size
        self.store.files.read_into(shard, pieces, at, end - at)
        opening = bytes(pieces[0][:BLOCK])
        for modality, gap, header, target in members:
            if not header or not gap.endswith(header):
                content = gap[-len(header) :] + target.tobytes() if header else target
                array = self._decoded(shard, opening, modality, memoryview(content))
                arrays.value[modality][row] = array
            arrays.present[modality][row] = True
        return _member_name(opening, parts[0][1])

    def _decoded(self, shard: int, opening: bytes, modality: str, content: memoryview) -> Any:
        store = self.store
        try:
            array = decode(modality, store.suffix[modality], content, store.depth_scale_m)
        except Exception as error:
            where = self._where(shard, opening, modality)
            raise InputError(f"{where}: cannot be decoded ({error}); write the dataset again") from error
        shape = store.layout.shape(modality)
        if array.shape != shape:
            raise InputError(f"{self._where(shard, opening, modality)}: shape {array.shape}, not {shape}")
        return array

    def _where(self, shard: int, opening: bytes, modality: str) -> str:
        key = opening[:_NAME_BYTES].partition(b".")[0].decode(errors="replace")
        return f"{self.store.files.name(shard)}, key {key}, {modality}"


def _member_name(header: bytes, size: int) -> bytes:
    """The name in a tar header, or nothing if it is not the header of a member of that size."""
    if header[_SIZE_AT : _SIZE_AT + _SIZE_BYTES] != b"%011o" % size:
        return b""
    return header[:_NAME_BYTES].partition(b"\0")[0][: LONGEST_KEY + 20]
