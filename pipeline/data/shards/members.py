"""One sample as the members of a tar: arrays to bytes and back.

`KEY.rgb.npy` uint8, `KEY.depth.npy` float32 metres with NaN where invalid, `KEY.seg.npy` uint8; or
`.png`: RGB, 16-bit depth in units of the dataset's depth scale with 0 where invalid, 8-bit labels.
"""

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from pipeline.data.modality import IGNORE_INDEX, Sample
from pipeline.data.refusal import Refused
from pipeline.data.statistics import DepthSums, depth_sums

Encoding = Literal["npy", "png"]

LARGEST_NPY = 64
"""Image size up to which `auto` stores raw arrays."""

_PNG_EFFORT = 3
_UINT16_MAX = 65535


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready to be written.

    Attributes:
        key: Its unique name.
        origin: What the source calls it.
        members: Bytes per member suffix (`rgb.npy`), in the order they are written.
        factors: Index of each known factor's value.
        depth: Sums over its valid depth.
        labels: Classes with at least one pixel.
    """

    key: str
    origin: str
    members: dict[str, bytes]
    factors: dict[str, int] | None
    depth: DepthSums
    labels: tuple[int, ...]


def encoding_for(setting: str, image_size: int) -> Encoding:
    """What `data.encoding` means at an image size."""
    if setting == "auto":
        return "npy" if image_size <= LARGEST_NPY else "png"
    assert setting in ("npy", "png")
    return "npy" if setting == "npy" else "png"


def encode(sample: Sample, encoding: Encoding, depth_scale_m: float) -> EncodedSample:
    """The bytes of every member a sample has.

    Args:
        sample: Any of its modalities may be absent.
        encoding: How arrays are stored.
        depth_scale_m: Metres per unit of a depth PNG.

    Raises:
        Refused: If depth does not fit into a depth PNG of that scale.
    """
    arrays = {"rgb": sample.rgb, "depth": sample.depth, "seg": sample.seg}
    members = {}
    for modality, array in arrays.items():
        if array is not None:
            stored = array if encoding == "npy" or modality != "depth" else _quantise(array, depth_scale_m)
            members[f"{modality}.{encoding}"] = (
                npy_header(stored.dtype, stored.shape) + stored.tobytes()
                if encoding == "npy"
                else _png(stored)
            )
    description = {"origin": sample.origin, "factors": sample.factors}
    members["json"] = json.dumps(
        description, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()
    labels = () if sample.seg is None else _labels(sample.seg)
    depth = DepthSums() if sample.depth is None else depth_sums(sample.depth)
    return EncodedSample(sample.key, sample.origin, members, sample.factors, depth, labels)


def decode(modality: str, suffix: str, content: bytes, depth_scale_m: float) -> Shaped[np.ndarray, "..."]:
    """An array from a member's bytes: rgb and seg uint8, depth float32 metres with NaN where invalid.

    Raises:
        ValueError: If the bytes are not what the suffix says.
    """
    match suffix:
        case "npy":
            array = read_npy(content)
        case "png" | "jpg":
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                array = np.asarray(image)
        case _:
            raise ValueError(f"a member .{modality}.{suffix} cannot be read; allowed are npy, png and jpg")
    if modality == "depth" and suffix != "npy":
        return np.where(array == 0, np.float32(np.nan), array.astype(np.float32) * np.float32(depth_scale_m))
    return array


def read_npy(content: bytes) -> Shaped[np.ndarray, "..."]:
    """An array of plain numbers from .npy bytes; it shares their memory.

    Raises:
        ValueError: If they are not such an array.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"npy version {version} is not supported; save it with numpy.save")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or fortran_order:
        raise ValueError("an npy member must hold plain numbers in C order")
    start = stream.tell()
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(content, dtype, count, offset=start).reshape(shape)


@lru_cache(maxsize=64)
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes numpy.save writes before those of an array in C order."""
    stream = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def _png(array: Shaped[np.ndarray, "..."]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=_PNG_EFFORT)
    return stream.getvalue()


def _quantise(
    depth: Float32[np.ndarray, "height width"], scale_m: float
) -> Shaped[np.ndarray, "height width"]:
    valid = np.isfinite(depth)
    farthest = float(np.max(depth, where=valid, initial=0.0))
    if farthest > _UINT16_MAX * scale_m:
        raise Refused(
            "depth_out_of_range",
            f"depth reaches {farthest:.1f} m; 16 bits of {scale_m:g} m hold {_UINT16_MAX * scale_m:.1f} m",
            "store arrays instead: data.encoding: npy",
        )
    units = np.maximum(np.rint(np.where(valid, depth, 0).astype(np.float64) / scale_m), 1)
    return np.where(valid, units, 0).astype(np.uint16)


def _labels(seg: UInt8[np.ndarray, "height width"]) -> tuple[int, ...]:
    counts = np.bincount(seg.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return tuple(np.flatnonzero(counts).tolist())
