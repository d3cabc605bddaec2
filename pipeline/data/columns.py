"""Columns of numbers, text and bytes between Python, NumPy and Arrow.

`pyarrow.array` of a list, and `to_numpy`, first import pandas where it is installed. That takes two seconds,
more than a small dataset; what goes through buffers does without.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Num, Shaped, UInt8


def texts(values: Iterable[str], kind: Any = None) -> pa.Array:
    """A column of text.

    Args:
        values: Without surrogates.
        kind: `large_string`, which it is if nothing is said, or `string`.
    """
    return binaries([value.encode() for value in values], kind or pa.large_string())


def binaries(values: Sequence[bytes], kind: Any = None) -> pa.Array:
    """A column of bytes, which `kind` may declare to be UTF-8; `large_binary` if nothing is said."""
    kind = kind or pa.large_binary()
    small = kind in (pa.string(), pa.binary())
    ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
    offsets = np.concatenate([[0], ends]).astype(np.int32 if small else np.int64, casting="same_kind")
    return pa.Array.from_buffers(
        kind, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )


def fixed_binaries(values: Sequence[bytes | None], size: int) -> pa.Array:
    """A column of so many bytes each, null where there are none."""
    content = b"".join(bytes(size) if value is None else value for value in values)
    known = np.fromiter((value is not None for value in values), bool, len(values))
    present = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(pa.binary(size), len(values), [present, pa.py_buffer(content)])


def numbers(values: Shaped[np.ndarray, " row"]) -> pa.Array:
    """A column of numbers; it shares the array's memory where that is in one piece."""
    plain = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(plain.dtype), len(plain), [None, pa.py_buffer(plain)])


def truths(values: Bool[np.ndarray, " row"]) -> pa.Array:
    """A column of yes and no."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])


def numbers_of(column: pa.Array | pa.ChunkedArray, missing: int | None = None) -> Num[np.ndarray, " row"]:
    """What a column of numbers holds; it may share the column's memory.

    Args:
        column: Numbers.
        missing: Stands where there are none; without it there must be no such place.
    """
    array = _in_one(column)
    if missing is None:
        values: np.ndarray = np.from_dlpack(array)
        return values
    bare = pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)
    values = np.from_dlpack(bare)
    return np.where(_known(array), values, values.dtype.type(missing))


def fixed_binaries_of(column: pa.Array | pa.ChunkedArray) -> UInt8[np.ndarray, "row byte"]:
    """What a column of so many bytes each holds; zeros where it is null."""
    array = _in_one(column)
    size = array.type.byte_width
    content = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * size :][: len(array) * size]
    return content.reshape(-1, size) * _known(array)[:, None]


def _in_one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks:
        return pa.concat_arrays(column.chunks)
    return pa.Array.from_buffers(column.type, 0, [None, pa.py_buffer(b"")])


def _known(array: pa.Array) -> Bool[np.ndarray, " row"]:
    return np.from_dlpack(array.is_valid().cast(pa.uint8())).view(bool)
