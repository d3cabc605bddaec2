"""EXR: float pictures of renderers. The package that reads them is an extra."""

import io
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from pipeline.data.pictures.picture import Picture, check_pixels, checked_array
from pipeline.data.refusal import Refused
from pipeline.errors import InputError

_DEPTH_CHANNELS = ("Z", "Y", "V", "depth", "Depth", "depth.Z", "Depth.Z")
_MOST_CHANNELS = 32
_LOSSY = ("B44", "DWA", "PXR24")


def check_exr_can_be_read() -> None:
    """Say what is missing before a run meets its first EXR.

    Raises:
        InputError: If the package is not installed.
    """
    if find_spec("OpenEXR") is None:
        raise InputError(
            "EXR files need the package OpenEXR, an extra of triptych: pip install 'triptych[exr]'"
        )


def decode_exr(content: bytes, name: str) -> Picture:
    """An EXR of one part: its only channel, or the one named as depth is; else its colours.

    Raises:
        Refused: If it is too large, or has not one part whose pixels fill its frame.
        InputError: If the package that reads it is not installed.
    """
    check_exr_can_be_read()
    import OpenEXR

    with OpenEXR.File(io.BytesIO(content), header_only=True, num_threads=0) as file:
        compression = _check_header(file.header(), len(file.parts), name)
    with OpenEXR.File(io.BytesIO(content), separate_channels=True, num_threads=0) as file:
        channels = {channel: stored.pixels for channel, stored in file.channels().items()}
    chosen = _chosen(channels)
    array = channels[chosen[0]] if len(chosen) == 1 else np.stack([channels[c] for c in chosen], axis=-1)
    picture = checked_array(array, "EXR", name)
    mode = f"{picture.mode} {','.join(chosen)}"
    return replace(picture, mode=mode, lossy=compression.startswith(_LOSSY))


def _check_header(header: dict[str, Any], parts: int, name: str) -> str:
    """Refuse a size before anything of that size is made; returns how the numbers are compressed.

    Raises:
        Refused: If it is too large, or has not one part whose pixels fill its frame.
    """
    frames = [np.asarray(header[window], np.int64) for window in ("dataWindow", "displayWindow")]
    width, height = (frames[0][1] - frames[0][0] + 1).tolist()
    check_pixels(name, height, width)
    filled = np.array_equal(frames[0], frames[1])
    if parts != 1 or not filled or len(header["channels"]) > _MOST_CHANNELS:
        beside = "" if filled else ", its data window is not its display window"
        raise Refused(
            "wrong_channels",
            f"{name}: an EXR of {parts} parts, {len(header['channels'])} channels{beside}",
            "save one part that fills the frame",
        )
    return str(header["compression"]).rpartition(".")[2]


def _chosen(channels: dict[str, Any]) -> list[str]:
    if len(channels) == 1:
        return list(channels)
    for name in _DEPTH_CHANNELS:
        if name in channels:
            return [name]
    return [name for name in "RGBA" if name in channels] or sorted(channels)[:4]
