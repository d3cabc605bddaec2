"""One array as the bytes of a tar's member, and back.

`KEY.rgb.npy` uint8, `KEY.depth.npy` float32 metres with NaN where invalid, `KEY.seg.npy` uint8; the same
as a zstd frame, `.npy.zst`, in which an array is compressed only if that makes it a good deal smaller; or
`.png`: RGB, 16-bit depth in units of the dataset's depth scale with 0 where invalid, 8-bit labels; or
`.jpg`: RGB, but not quite.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Shaped
from PIL import Image

from pipeline.data.modality import MODALITIES
from pipeline.data.refusal import Refused

LARGEST_NPY = 64
"""Image size up to which `auto` stores arrays as they are; beyond, in zstd frames."""

WORTH_ZSTD = 0.6
"""An array is stored as it is inside its zstd frame unless compression leaves less than this share of it.

The RGB of cameras keeps some 0.75 of its bytes. Decompressing them takes 0.3 ms at 256 px, so that reading
what was saved is the faster way from any disk of more than 160 MB/s.
"""

_PNG_EFFORT, _ZSTD_EFFORT, _JPEG_QUALITY = 3, 3, 95
_UINT16_MAX = 65535
_NPY_START = 10
_LARGEST_ARRAY = 1 << 28
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PROBES, _PROBE_BYTES = 8, 4096


def encodings_for(setting: str | Mapping[str, str], image_size: int) -> dict[str, str]:
    """The member suffix of every modality that `data.encoding` means at an image size.

    `auto` loses nothing. benchmarks/formats.py measured what it chooses: up to 64 px nothing is read faster
    than plain arrays, and above, zstd frames are half as large or less and several times faster than PNG.
    """
    chosen = "npy" if image_size <= LARGEST_NPY else "npy.zst"
    wanted = dict.fromkeys(MODALITIES, setting) if isinstance(setting, str) else setting
    return {m: chosen if wanted.get(m, "auto") == "auto" else wanted[m] for m in MODALITIES}


def lossy_modalities(suffixes: Mapping[str, str], whole_depth: bool) -> tuple[str, ...]:
    """The modalities whose stored arrays are not quite those of the source.

    Args:
        suffixes: Member suffix (`npy`) per modality.
        whole_depth: Whether a depth PNG holds the source's depth exactly.
    """
    lossy = {"rgb": ("jpg",), "depth": () if whole_depth else ("png",)}
    return tuple(m for m in MODALITIES if suffixes.get(m) in lossy.get(m, ()))


def encode_array(modality: str, suffix: str, array: Shaped[np.ndarray, "..."], depth_scale_m: float) -> bytes:
    """The bytes of a member.

    Args:
        modality: Whose array it is.
        suffix: `npy`, `npy.zst`, `png` or `jpg`.
        array: rgb and seg uint8, depth float32 metres.
        depth_scale_m: Metres per unit of a depth PNG.

    Raises:
        Refused: If depth does not fit into a depth PNG of that scale.
        ValueError: If the modality cannot be stored so.
    """
    match suffix:
        case "npy":
            return npy_header(array.dtype, array.shape) + array.tobytes()
        case "npy.zst":
            return _framed(npy_header(array.dtype, array.shape) + array.tobytes())
        case "png":
            stored = _quantise(array, depth_scale_m) if modality == "depth" else array
            return _picture(stored, "PNG", compress_level=_PNG_EFFORT)
        case "jpg" if modality == "rgb":
            return _picture(array, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    raise ValueError(f"{modality} cannot be stored as {suffix}")


def decode(
    modality: str, suffix: str, content: bytes | memoryview, depth_scale_m: float
) -> Shaped[np.ndarray, "..."]:
    """An array from a member's bytes: rgb and seg uint8, depth float32 metres with NaN where invalid.

    Raises:
        ValueError: If the bytes are not what the suffix says.
    """
    match suffix:
        case "npy":
            return read_npy(content)
        case "npy.zst":
            return read_npy(_decompressed(content))
        case "png" | "jpg":
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                array = np.asarray(image)
        case _:
            raise ValueError(
                f"a member .{modality}.{suffix} cannot be read; allowed are npy, npy.zst, png and jpg"
            )
    if modality == "depth":
        if array.dtype != np.uint16:
            raise ValueError(f"a depth picture holds {array.dtype}, not uint16")
        return _metres(depth_scale_m)[array]
    return array


def read_npy(content: bytes | memoryview) -> Shaped[np.ndarray, "..."]:
    """An array of plain numbers from .npy bytes; it shares their memory.

    Raises:
        ValueError: If they are not such an array.
    """
    end = _NPY_START + int.from_bytes(content[_NPY_START - 2 : _NPY_START], "little")
    dtype, shape, count = _described(bytes(content[:end]))
    return np.frombuffer(content, dtype, count, offset=end).reshape(shape)


@lru_cache(maxsize=64)
def _described(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """What a header says: data type, shape and number of elements. All samples of a dataset share a few.

    Raises:
        ValueError: If it is not that of plain numbers in C order.
    """
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"npy version {version} is not supported; save it with numpy.save")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or fortran_order:
        raise ValueError("an npy member must hold plain numbers in C order")
    return dtype, shape, int(np.prod(shape, dtype=np.int64))


@lru_cache(maxsize=64)
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes numpy.save writes before those of an array in C order."""
    stream = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


@lru_cache(maxsize=4)
def _metres(scale_m: float) -> Float32[np.ndarray, " 65536"]:
    """Metres by stored number; computed as sources do, in float64, so that nothing is lost."""
    metres = (np.arange(_UINT16_MAX + 1) * scale_m).astype(np.float32)
    metres[0] = np.nan
    return metres


@lru_cache(maxsize=2)
def _zstd(effort: int = _ZSTD_EFFORT) -> Any:
    return pa.Codec("zstd", compression_level=effort)


def _framed(content: bytes) -> bytes:
    """A zstd frame: compressed if that is worth it, which a few pieces tell; else in blocks as they are."""
    probe = _probe(content)
    worth = len(_zstd().compress(probe, asbytes=True)) < WORTH_ZSTD * len(probe)
    effort = _ZSTD_EFFORT if worth else pa.Codec.minimum_compression_level("zstd")
    frame: bytes = _zstd(effort).compress(content, asbytes=True)
    return frame


def _probe(content: bytes) -> bytes:
    """Evenly spaced pieces; all of what is not much longer than they are."""
    step = len(content) // _PROBES
    if step < 2 * _PROBE_BYTES:
        return content
    starts = range((step - _PROBE_BYTES) // 2, len(content) - _PROBE_BYTES, step)
    return b"".join(content[start : start + _PROBE_BYTES] for start in starts)


def _decompressed(content: bytes | memoryview) -> memoryview:
    size = _zstd_size(bytes(content[:18]))
    if size > _LARGEST_ARRAY:
        raise ValueError(f"a compressed member of {size} bytes is too large to be one of ours")
    return memoryview(_zstd().decompress(content, decompressed_size=size))


def _zstd_size(head: bytes) -> int:
    """How large a zstd frame is when decompressed.

    Source: RFC 8878, section 3.1.1.1: a descriptor, window and dictionary fields that may be absent, then
        the size, little-endian; a size of two bytes counts from 256.

    Raises:
        ValueError: If it is no such frame or does not say.
    """
    if len(head) < 6 or head[:4] != _ZSTD_MAGIC:
        raise ValueError("not a zstd frame")
    flag, single = head[4] >> 6, head[4] >> 5 & 1
    width = (single, 2, 4, 8)[flag]
    if not width:
        raise ValueError("a zstd frame that does not say its size; compress it in one go")
    start = 5 + (not single) + (0, 1, 2, 4)[head[4] & 3]
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def _picture(array: Shaped[np.ndarray, "..."], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def _quantise(
    depth: Float32[np.ndarray, "height width"], scale_m: float
) -> Shaped[np.ndarray, "height width"]:
    valid = np.isfinite(depth)
    farthest = float(np.max(depth, where=valid, initial=0.0))
    if np.rint(farthest / scale_m) > _UINT16_MAX:
        raise Refused(
            "depth_out_of_range",
            f"depth reaches {farthest:.1f} m; 16 bits of {scale_m:g} m hold {_UINT16_MAX * scale_m:.1f} m",
            "store arrays instead: data.encoding: {depth: npy.zst}",
        )
    units = np.maximum(np.rint(np.where(valid, depth, 0).astype(np.float64) / scale_m), 1)
    return np.where(valid, units, 0).astype(np.uint16)
